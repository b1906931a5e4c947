package brief_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/brief"
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
