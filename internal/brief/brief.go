// Package brief keeps log lines short and visible. The text of an error may have
// megabytes, and characters that control the reader's terminal.
package brief

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/internal/visible"
)

// Most is the limit of a text in a log line, in bytes. The database keeps as much of an
// error's message.
const Most = 8 << 10

// Logger returns a logger that writes to the same handler. It applies Text to every
// message, and to every text and error among the attributes.
func Logger(log *slog.Logger) *slog.Logger {
	if _, already := log.Handler().(handler); already {
		return log
	}
	return slog.New(handler{log.Handler()})
}

// Text returns the text with hidden characters escaped, cut after Most bytes. Line
// feeds and tabs stay: each handler of slog writes them in its own way.
func Text(text string) string {
	kept, short := cut(text)
	kept = visible.Text(kept)
	kept, shown := cut(kept)
	if short || shown {
		kept += "… (cut)"
	}
	return kept
}

func cut(text string) (kept string, short bool) {
	if len(text) <= Most {
		return text, false
	}
	n := Most
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n], true
}

type handler struct{ slog.Handler }

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	brief := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		brief[i], _ = shorten(a)
	}
	return handler{h.Handler.WithAttrs(brief)}
}

func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	message := Text(r.Message)
	changed := message != r.Message
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		a, other := shorten(a)
		changed = changed || other
		attrs = append(attrs, a)
		return true
	})
	if !changed {
		return h.Handler.Handle(ctx, r)
	}
	short := slog.NewRecord(r.Time, r.Level, message, r.PC)
	short.AddAttrs(attrs...)
	return h.Handler.Handle(ctx, short)
}

// shorten applies Text to an attribute that is a text, an error, a fmt.Stringer or a
// group. It reports whether it has changed the attribute.
func shorten(a slog.Attr) (slog.Attr, bool) {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		if text := Text(v.String()); text != v.String() {
			return slog.String(a.Key, text), true
		}
	case slog.KindGroup:
		group, any := make([]slog.Attr, len(v.Group())), false
		for i, member := range v.Group() {
			var other bool
			group[i], other = shorten(member)
			any = any || other
		}
		if any {
			return slog.Attr{Key: a.Key, Value: slog.GroupValue(group...)}, true
		}
	case slog.KindAny:
		var text string
		switch v := v.Any().(type) {
		case error:
			text = textOf(v.Error)
		case fmt.Stringer:
			text = textOf(v.String)
		}
		if short := Text(text); short != text {
			return slog.Any(a.Key, errors.New(short)), true
		}
	}
	return a, false
}

// textOf returns "" if f panics, for example for a typed nil: the handler deals with
// it.
func textOf(f func() string) (text string) {
	defer func() { _ = recover() }()
	return f()
}
