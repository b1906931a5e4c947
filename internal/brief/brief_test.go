package brief_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/brief"
	"github.com/reprise-bus/reprise/internal/visible"
)

type typedNil struct{ text string }

func (n *typedNil) Error() string { return n.text }

func TestALineHasNoTextOfMegabytes(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("ü", 8<<20)
	for name, log := range map[string]func(l *slog.Logger){
		"a text":            func(l *slog.Logger) { l.Info("so", "text", huge) },
		"an error":          func(l *slog.Logger) { l.Info("so", "error", errors.New(huge)) },
		"a message":         func(l *slog.Logger) { l.Info(huge) },
		"in a group":        func(l *slog.Logger) { l.Info("so", slog.Group("g", "error", errors.New(huge), "n", 1)) },
		"of a logger":       func(l *slog.Logger) { l.With("error", errors.New(huge)).Info("so") },
		"in a logger group": func(l *slog.Logger) { l.WithGroup("g").Info("so", "error", errors.New(huge)) },
		"a stringer":        func(l *slog.Logger) { l.Info("so", "text", stringer(huge)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			log(brief.Logger(brief.Logger(slog.New(slog.NewTextHandler(&out, nil)))))
			require.Less(t, out.Len(), 2*brief.Most)
			require.Contains(t, out.String(), "üüü… (cut)")
		})
	}
}

// Whatever handler writes the line, and however it does: what a stranger has chosen
// neither controls a terminal nor shows something else than there is.
func TestALineHasNoHiddenCharacter(t *testing.T) {
	t.Parallel()
	for _, hostile := range []string{
		"\x1b[2J\x1b]0;title\x07", "\u009b2J\u0085", "del\x7f\x08", "invoice\u202egpj.exe", "zero\u200b\ufeff\u00ad", "line\u2028FORGED",
		"nul\x00", "not\xff UTF-8 \xed\xa0\x80", strings.Repeat("\x1b", 1<<20),
	} {
		var out bytes.Buffer
		l := brief.Logger(slog.New(raw{&out}))
		l.With("text", hostile).Info(hostile, "error", errors.New(hostile), slog.Group("g", "text", stringer(hostile)))
		require.Less(t, out.Len(), 5*brief.Most)
		require.True(t, utf8.ValidString(out.String()))
		for _, r := range out.String() {
			require.False(t, visible.Hidden(r) && r != '\n', "%q", r)
		}
		require.NotEmpty(t, out.String())
	}
	require.Equal(t, `a\u001b[2Jb`, brief.Text("a\x1b[2Jb"))
	require.Equal(t, "two\n\tlines", brief.Text("two\n\tlines"))
}

// raw is a handler that writes what it is given as it is, as some for terminals do.
type raw struct{ out *bytes.Buffer }

func (h raw) Enabled(context.Context, slog.Level) bool { return true }
func (h raw) WithGroup(string) slog.Handler            { return h }
func (h raw) WithAttrs(attrs []slog.Attr) slog.Handler {
	fmt.Fprintln(h.out, attrs)
	return h
}
func (h raw) Handle(_ context.Context, r slog.Record) error {
	fmt.Fprintln(h.out, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintln(h.out, a.Value)
		return true
	})
	return nil
}

type stringer string

func (s stringer) String() string { return string(s) }

func TestWhatIsShortStaysAsItIs(t *testing.T) {
	t.Parallel()
	write := func(wrap func(*slog.Logger) *slog.Logger) string {
		var out bytes.Buffer
		l := wrap(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})))
		l.With("a", 1).WithGroup("g").Warn("so", "error", errors.New("short"), "for", time.Second, "n", 7, "nil", (*typedNil)(nil), slog.Group("h", "x", "y"))
		return out.String()
	}
	require.Equal(t, write(func(l *slog.Logger) *slog.Logger { return l }), write(brief.Logger))
}
