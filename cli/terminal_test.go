//go:build linux || darwin

package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

// screen is what a terminal shows.
type screen struct {
	keys *os.File

	mu    sync.Mutex
	shown bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.Write(p)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

// atTerminal runs a command at a terminal, where somebody sits, and returns
// what it shows in the end.
func (d *db) atTerminal(ctx context.Context, env map[string]string, sit func(s *screen), args ...string) (code int, text string) {
	d.t.Helper()
	keys, terminal, err := pty.Open()
	require.NoError(d.t, err)
	defer keys.Close()
	require.NoError(d.t, pty.Setsize(keys, &pty.Winsize{Rows: 24, Cols: 80}))
	s := &screen{keys: keys}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(s, keys) // ends with the terminal
	}()
	done := make(chan int, 1)
	go func() {
		code := exec(ctx, Config{}, terminal, terminal, terminal, args, func(name string) string {
			if name == "REPRISE_DATABASE_URL" {
				return d.url
			}
			return env[name]
		})
		terminal.Close()
		done <- code
	}()
	if sit != nil {
		sit(s)
	}
	code = <-done
	_, _ = keys.WriteString("\n") // ends a read that was given up, which keeps the terminal open
	<-read
	return code, s.text()
}

// answer waits for a question and types.
func answer(t *testing.T, question, keys string) func(*screen) {
	return func(s *screen) {
		eventually(t, func() bool { return strings.Contains(s.text(), question) })
		_, err := s.keys.WriteString(keys)
		require.NoError(t, err)
	}
}

func TestAskedAtATerminal(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		id := db.failed("mail", 1)[0]
		for _, no := range []string{"n\n", "\n", "what?\n", "\x04"} {
			code, text := db.atTerminal(t.Context(), nil, answer(t, "Replay 1 run of mail (1)? [y/N]", no), "runs", "replay", "--all")
			require.Equal(t, exitFailed, code)
			require.Contains(t, text, "nothing was done")
			require.Equal(t, store.Failed, db.status(id))
		}
		code, text := db.atTerminal(t.Context(), nil, answer(t, "[y/N]", "y\n"), "runs", "replay", "--all", "--rate", "10/s")
		require.Zero(t, code, text)
		require.Contains(t, text, "at 10/s for 0s?")
		require.Equal(t, store.Pending, db.status(id))
	})
}

func TestAskedAtATerminalAboutTheOutbox(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		id := db.outbox("orders", 1, true)[0]
		for _, c := range []struct {
			question string
			args     []string
			then     store.OutgoingState
		}{
			{"Release 1 message of orders (1)? [y/N]", []string{"release", "--all"}, store.OutgoingPending},
			{"Drop 1 message of orders (1)? [y/N]", []string{"drop", "--all", "--reason", "test"}, store.OutgoingDropped},
			{"Send 1 message again of orders (1)? [y/N]", []string{"send", "--state", "DROPPED", "--all"}, store.OutgoingPending},
		} {
			was := db.state(id)
			args := append([]string{"outbox"}, c.args...)
			code, text := db.atTerminal(t.Context(), nil, answer(t, c.question, "n\n"), args...)
			require.Equal(t, exitFailed, code)
			require.Contains(t, text, "nothing was done")
			require.Equal(t, was, db.state(id))
			code, text = db.atTerminal(t.Context(), nil, answer(t, c.question, "y\n"), args...)
			require.Zero(t, code, text)
			require.Equal(t, c.then, db.state(id))
		}
	})
}

func TestInterruptingAQuestionDoesNothing(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		id := db.failed("mail", 1)[0]
		ctx, interrupt := context.WithCancel(t.Context())
		code, text := db.atTerminal(ctx, nil, func(s *screen) {
			eventually(t, func() bool { return strings.Contains(s.text(), "[y/N]") })
			interrupt()
		}, "runs", "replay", "--all")
		require.Equal(t, exitInterrupted, code)
		require.Contains(t, text, "interrupted")
		require.Equal(t, store.Failed, db.status(id))
	})
}

var escapes = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)

func TestATableFitsTheTerminal(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.failed("mail", 2)
		db.ended("mail", 1, store.Success)
		_, text := db.atTerminal(t.Context(), nil, nil, "runs", "list")
		require.Contains(t, text, string(red)+"FAILED"+reset)
		require.Contains(t, text, string(green)+"SUCCESS"+reset)
		for line := range strings.SplitSeq(strings.TrimSpace(text), "\r\n") {
			require.LessOrEqual(t, utf8.RuneCountInString(escapes.ReplaceAllString(line, "")), 80)
		}
		lines := strings.Split(escapes.ReplaceAllString(text, ""), "\r\n")
		require.Equal(t, strings.Index(lines[0], "HANDLER"), strings.Index(lines[1], "mail"), "aligned, in spite of the colours")
		require.True(t, strings.HasSuffix(lines[2], "…"), lines[2])

		for _, env := range []map[string]string{{"NO_COLOR": "1"}, {"TERM": "dumb"}} {
			_, text = db.atTerminal(t.Context(), env, nil, "runs", "list")
			require.NotContains(t, text, "\x1b")
		}
	})
}

func TestABarShowsHowFarItIs(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		db.manyFailed("mail", 6_000)
		code, text := db.atTerminal(t.Context(), nil, nil, "runs", "replay", "--all", "--yes")
		require.Zero(t, code, text)
		require.Contains(t, text, "replaying")
		require.Contains(t, text, "/6000)")
		require.Contains(t, text, "6,000 of 6000")
	})
}

func TestWhatIsOnRecordDoesNotControlTheTerminal(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.exec(`INSERT INTO reprise.events (id, topic, payload, source) VALUES ('1', 't', '{}', 'test')`)
		db.exec(`INSERT INTO reprise.handler_runs (event_id, topic, handler, status, attempt, finished_at, failed_at, error_kind, error) VALUES ('1', 't', 'h', 'FAILED', 1, $1, $1, 'error', $2)`,
			before(0), "\x1b[2J\u009b2Jgone")
		for _, args := range [][]string{{"runs", "list"}, {"runs", "show", "1"}} {
			_, text := db.atTerminal(t.Context(), map[string]string{"NO_COLOR": "1"}, nil, args...)
			require.Contains(t, text, "[2J")
			require.NotContains(t, text, "\x1b")
			require.NotContains(t, text, "\u009b")
		}
	})
}

func TestCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text  string
		limit int
		want  string
	}{
		{"abcdef", 0, "abcdef"}, {"abcdef", 6, "abcdef"}, {"abcdef", 5, "abcd…"}, {"äöüäöü", 3, "äö…"},
		{string(red) + "abcdef" + reset, 6, string(red) + "abcdef" + reset}, {string(red) + "abcdef" + reset, 3, string(red) + "ab…" + reset},
	} {
		require.Equal(t, c.want, words.Cut(c.text, c.limit), fmt.Sprint(c))
	}
}
