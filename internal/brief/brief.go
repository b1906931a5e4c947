// Package brief keeps log lines short: an error's text may have megabytes.
package brief

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"unicode/utf8"
)

// Most is how many bytes of a text a log line has, as many as the database keeps of
// an error's message.
const Most = 8 << 10

// Logger returns a logger that writes to the same handler, and cuts every message,
// and every text and error among the attributes, after Most bytes.
func Logger(log *slog.Logger) *slog.Logger {
	if _, already := log.Handler().(handler); already {
		return log
	}
	return slog.New(handler{log.Handler()})
}

// Text returns the text, cut after Most bytes.
func Text(text string) string {
	if len(text) <= Most {
		return text
	}
	n := Most
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "… (cut)"
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
	long := len(r.Message) > Most
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		a, cut := shorten(a)
		long = long || cut
		attrs = append(attrs, a)
		return true
	})
	if !long {
		return h.Handler.Handle(ctx, r)
	}
	short := slog.NewRecord(r.Time, r.Level, Text(r.Message), r.PC)
	short.AddAttrs(attrs...)
	return h.Handler.Handle(ctx, short)
}

// shorten says whether it has cut the attribute. What is no text, no error, no
// fmt.Stringer and no group stays as it is.
func shorten(a slog.Attr) (slog.Attr, bool) {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		if len(v.String()) > Most {
			return slog.String(a.Key, Text(v.String())), true
		}
	case slog.KindGroup:
		group, any := make([]slog.Attr, len(v.Group())), false
		for i, member := range v.Group() {
			var cut bool
			group[i], cut = shorten(member)
			any = any || cut
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
		if len(text) > Most {
			return slog.Any(a.Key, errors.New(Text(text))), true
		}
	}
	return a, false
}

// textOf leaves what panics, such as a typed nil, to the handler.
func textOf(f func() string) (text string) {
	defer func() { _ = recover() }()
	return f()
}
