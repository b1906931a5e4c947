//go:build linux || darwin

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/visible"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

// hostile are texts that whoever publishes may choose, to control the terminal
// of whoever looks, or to make it show something else than there is. FORGED must
// not begin a line.
var hostile = []string{
	"\x1b[2J\x1b]0;title\x07",
	"\x1b]52;c;cm0gLXJmIH4=\x07",
	"\u009b2J\u009d0;title\u009c\u0085",
	"del\x7f\x08\x08\x08",
	"invoice\u202egpj.exe\u202c \u2066\u2067\u2068\u2069 \u200e\u200f\u061c",
	"zero\u200bwidth\u200c\u200d\u2060\ufeff\u00ad",
	"line\u2028FORGED\u2029FORGED",
	"line\nFORGED\r\nFORGED\rFORGED\tFORGED\vFORGED\fFORGED",
	"nul\x00FORGED",
	"not\xff\xfe UTF-8 \xc3( \xed\xa0\x80",
	`{"lone":"\ud800","control":"\u001b[2J\u202e"}`,
	"tags \U000e0041\U000e0042 selectors \ufe0f\U000e0100 fillers \u3164\u034f",
	"combining a\u0301\u0302" + strings.Repeat("\u0336", 100) + " हिन्दी 東京 👍",
	"$(reboot) `reboot` '; DROP TABLE events; --",
	"megabyte\u202e\x1b[2J" + strings.Repeat("0123456789abcdef", 1<<16),
}

// seed is a hostile text, put in every place of the record.
type seed struct {
	text      string // as far as the database takes it
	name      string // of what is named: an event, a topic, a key, a handler
	run, made int64  // the one that somebody wrote by hand, and the one that failed
	outgoing  int64
	operation int64
}

// sow puts every hostile text in every place of the record: by the ways that
// events take where these accept it, and by hand, as a restore or another
// program may.
func (d *db) sow() (seeds []seed) {
	d.t.Helper()
	ctx := d.t.Context()
	id := func(query string, args ...any) (id int64) {
		d.t.Helper()
		require.NoError(d.t, d.DB().QueryRowContext(ctx, d.sql(query), args...).Scan(&id))
		return id
	}
	asJSON := func(value any) string {
		var out strings.Builder
		to := json.NewEncoder(&out)
		to.SetEscapeHTML(false)
		require.NoError(d.t, to.Encode(value))
		return strings.TrimSpace(out.String())
	}
	for i, text := range hostile {
		s := seed{text: text, name: text[:min(len(text), 200)]}
		if d.kind() == dialect.Postgres {
			s.text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "")
			s.name = strings.ToValidUTF8(s.text[:min(len(s.text), 200)], "")
		}
		inLines := strings.ReplaceAll(text, "FORGED", "LINE") // where lines are shown as lines

		accepted := strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '_'
			}
			return r
		}, strings.ToValidUTF8(s.name, "_")) + " accepted"
		valid := strings.ToValidUTF8(text, "_")
		event := store.Event{ID: accepted, Topic: accepted, Key: accepted, Source: "test", Payload: []byte(inLines), Metadata: map[string]string{valid: valid}}
		require.NoError(d.t, d.Subscribe(ctx, store.Subscription{Topic: accepted, Handler: accepted}, `{}`))
		require.NoError(d.t, d.Register(ctx, store.Instance{ID: accepted, Host: accepted, Build: accepted, Handlers: []string{accepted}}))
		run, err := d.Record(ctx, event, accepted, accepted, false)
		require.NoError(d.t, err)
		failure := store.NewFailure(accepted, store.Kind(accepted), text)
		failure.Stack = inLines
		_, err = d.End(ctx, []queue.Outcome{{Lease: queue.LeaseOf(run), Status: store.Failed, Failure: failure}})
		require.NoError(d.t, err)
		s.made = run.ID

		d.exec(`INSERT INTO reprise.events (id, topic, key, payload_bytes, metadata, source, amends) VALUES ($1, $1, $1, $2, $3, $1, $1)`,
			s.name, []byte(`{"text":"`+inLines+`"}`), asJSON(map[string]string{s.text: s.text}))
		s.run = id(`INSERT INTO reprise.handler_runs (event_id, topic, handler, key, status, attempt, instance)
			VALUES ($1, $1, $1, $1, 'PENDING', 1, $1) RETURNING id`, s.name)
		d.exec(`UPDATE reprise.handler_runs SET status = 'FAILED', finished_at = '2026-07-01T12:00:00.000Z', failed_at = '2026-07-01T12:00:00.000Z',
			error_kind = $2, error = $3, fingerprint = $4 WHERE id = $1`, s.run, s.name, s.text, fmt.Sprintf("%016x", i+1)) // so the groups count it
		d.exec(`INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, stack, instance, started_at) VALUES ($1, 1, 0, $2, $3, $4, $2, '2026-07-01T12:00:00.000Z')`,
			s.run, s.name, s.text, strings.ReplaceAll(s.text, "FORGED", "LINE"))
		d.exec(`INSERT INTO reprise.instances (id, host, pid, build, handlers, heartbeat_at) VALUES ($1, $1, 1, $1, $2, '2026-07-01T12:00:00.000Z')`, s.name, asJSON([]string{s.name}))
		s.operation = id(`INSERT INTO reprise.operations (kind, requested_by, reason, selection, complete) VALUES ('replay', $1, $2, $3, $4) RETURNING id`,
			s.name, s.text, asJSON(map[string]string{"handler": s.name, "topic": s.name, "event": s.name, "key": s.name, "kind": s.name, "text": s.name}), i%2 == 0)
		d.exec(`INSERT INTO reprise.operation_runs (operation_id, place, run_id, status, attempt, cycle, tries) VALUES ($1, 1, $2, 'FAILED', 1, 0, 0)`, s.operation, s.run)
		d.exec(`INSERT INTO reprise.actions (kind, operation_id, requested_by, reason) VALUES ('pause', $1, $2, $3)`, s.operation, s.name, s.text)
		d.exec(`INSERT INTO reprise.actions (kind, selection, requested_by, reason) VALUES ('remove', $1, $2, $3)`,
			asJSON(map[string]string{"handler": s.name, "topic": s.name}), s.name, s.text)
		state := store.OutgoingStates()[i%len(store.OutgoingStates())]
		s.outgoing = id(`INSERT INTO reprise.outbox (event_id, topic, key, payload_bytes, metadata, state, failures, error, operation_id, sent_at, written_at)
			VALUES ($1, $1, $1, $2, $3, $4, 1, $5, $6, '2026-07-01T12:00:00.000Z', '2026-07-01T12:00:00.000Z') RETURNING id`,
			s.name, []byte(inLines), asJSON(map[string]string{s.text: s.text}), state, s.text, s.operation)
		d.exec(`INSERT INTO reprise.topics (topic, transport, mode, description, manual) VALUES ($1, $1, $1, $2, $3)`, s.name, s.text, i%2 == 0)
		d.exec(`INSERT INTO reprise.subscriptions (topic, handler, policy) VALUES ($1, $1, $2)`, s.name, asJSON(map[string]any{"attempts": 3, "cycle_interval": s.name, "timeout": s.name}))
		seeds = append(seeds, s)
	}
	one := map[dialect.Kind]any{dialect.Postgres: true, dialect.SQLite: 1}[d.kind()]
	d.exec(`INSERT INTO reprise.relay (one, instance, until) VALUES ($1, $2, '9999-01-01T00:00:00.000Z')`, one, seeds[0].name)
	return seeds
}

// command is a way to call one of the command line.
type command struct {
	path  string // of the command
	args  []string
	names bool // its JSON has the name of every seed
	stdin string
	until func(d *db, out *lockedBuffer) // nil: it ends by itself
}

// commands calls every command with what is hostile, those first that only look.
func commands(seeds []seed) (all []command) {
	add := func(path string, args ...string) *command {
		all = append(all, command{path: path, args: args})
		return &all[len(all)-1]
	}
	number := func(of func(seed) int64) (ids []string) {
		for _, s := range seeds {
			ids = append(ids, fmt.Sprint(of(s)))
		}
		return ids
	}
	runs := number(func(s seed) int64 { return s.run })
	made := number(func(s seed) int64 { return s.made })
	outgoing := number(func(s seed) int64 { return s.outgoing })

	add("", "no \x1b[2J\u202esuch command")
	add("", "--database-url", "postgres://\x1b[2J\u202e:secret@\u009b/", "runs", "list")
	add("", "--database-url", "sqlite:\x1b[2J\u202enone.db", "runs", "list")
	add("", "--schema", "\u202e", "runs", "list")
	add("help", "exit-codes")
	add("help", "no \u202esuch")
	for _, shell := range []string{"bash", "fish", "powershell", "zsh"} {
		add("completion " + shell)
	}
	add("version")
	add("migrate status")
	add("migrate up")
	add("runs list").names = true
	add("runs list", "--before", "\u202e")
	add("runs count", "--handler", seeds[4].name)
	add("runs groups").names = true
	add("runs show", append(append([]string{"--payload", "--stack"}, runs...), made...)...).names = true
	add("runs show", "\x1b[2J\u202e")
	year := 2100
	add("runs watch", "--interval", "100ms").until = func(d *db, out *lockedBuffer) {
		d.eventually(func() bool { return strings.Contains(out.String(), "Watching") })
		year++ // news, each time
		d.exec(`UPDATE reprise.handler_runs SET finished_at = $1, failed_at = $1 WHERE status = 'FAILED'`, fmt.Sprintf("%d-01-01T00:00:00.000Z", year))
		d.eventually(func() bool { return strings.Contains(out.String(), "reboot") })
	}
	for _, id := range append(runs, made...) {
		add("runs export", id)
	}
	add("runs export", runs[0], "-f", "/none/\x1b[2J\u202e.json")
	add("runs replay", append(runs, "--dry-run")...)
	add("runs replay", "--handler", seeds[4].name) // wants a terminal to ask on
	add("runs discard", append(runs, "--dry-run")...)
	add("events list").names = true
	add("events list", "--before", "\x1b[2J\u202e")
	for _, s := range seeds {
		add("events show", s.name, "--payload")
		add("events show", "--topic", s.name, "--", "no "+s.name)
		add("handlers remove", "--", s.name)
		add("handlers remove", "--", "no "+s.name)
		add("backfill", "--dry-run", "--", s.name)
		add("backfill", "--reason", s.name, "--", "no "+s.name)
		add("replays show", fmt.Sprint(s.operation))
	}
	add("handlers list").names = true
	add("topics list").names = true
	add("outbox list", "--all").names = true
	add("outbox show", append([]string{"--payload"}, outgoing...)...).names = true
	add("outbox status")
	add("replays list").names = true
	add("actions list").names = true
	add("actions list", "--before", "\u202e")
	add("replays show", "\x1b[2J\u202e")
	add("doctor")
	add("prune", "--older-than", "1d")
	add("prune", "--older-than", "\x1b[2J\u202e")

	for _, s := range seeds {
		add("publish", "--by", s.name, "--reason", s.name, "--", s.name, s.text)
		add("publish", "--key", s.name, "--metadata", s.name+"="+s.name, "--", "plain", s.text)
		add("publish", "--keys", s.name, "--", "plain", `{"key":"{key}"}`)
		add("publish", "--lines", "--id-from", "text", "plain").stdin = s.text
		add("publish", "--keys-from", "/none/"+s.name, "plain", "{}")
		add("publish", "--transport", "kafka://\x1b[2J\u202e:9092/"+s.name, "plain", "{}")
		add("runs edit", fmt.Sprint(s.run), "--yes", "--reason", s.text, "--metadata", s.name+"="+s.text)
		add("runs edit", fmt.Sprint(s.made), "--yes", "--by", s.name)
		add("runs edit", fmt.Sprint(s.run), "--payload", "/none/"+s.name)
		add("runs discard", fmt.Sprint(s.run), "--yes", "--by", s.name, "--reason", s.text)
		add("replays pause", fmt.Sprint(s.operation), "--by", s.name, "--reason", s.text)
		add("replays resume", fmt.Sprint(s.operation), "--by", s.name, "--reason", s.text)
		add("replays cancel", fmt.Sprint(s.operation), "--by", s.name, "--reason", s.text)
		add("replays undo", fmt.Sprint(s.operation), "--by", s.name, "--reason", s.text)
		add("backfill", "--yes", "--", s.name)
	}
	add("runs replay", append(runs, "--yes", "--by", seeds[4].name, "--reason", seeds[4].text)...)
	add("outbox release", append(outgoing, "--dry-run")...)
	add("outbox release", append(outgoing, "--yes", "--reason", seeds[4].text)...)
	add("outbox drop", append(outgoing, "--dry-run")...)
	add("outbox drop", append(outgoing, "--yes", "--reason", seeds[4].text)...)
	add("outbox send", append(outgoing, "--state", "DROPPED", "--dry-run")...)
	add("outbox send", append(outgoing, "--state", "DROPPED", "--yes", "--reason", seeds[4].text)...)
	for _, s := range seeds {
		add("handlers remove", "--yes", "--", s.name)
	}
	add("prune", "--older-than", "1h", "--failed", "--yes")
	return all
}

// TestNothingOnRecordControlsTheTerminal calls every command there is, with
// everything on record, and in the arguments, being hostile.
func TestNothingOnRecordControlsTheTerminal(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		seeds := db.sow()
		dir := t.TempDir()
		editor := filepath.Join(dir, "editor")
		require.NoError(t, os.WriteFile(editor, []byte("#!/bin/sh\nprintf '{\"edited\":\"\\302\\233\\342\\200\\256\"}' > \"$1\"\n"), 0o700))
		env := map[string]string{"REPRISE_DATABASE_URL": db.url, "EDITOR": editor, "TMPDIR": dir}
		called := map[string]bool{}
		for _, c := range commands(seeds) {
			called[c.path] = true
			for _, format := range formats() {
				args := append(append(strings.Fields(c.path), "-o", format), c.args...)
				out, errs, code := db.call(c, env, args)
				what := fmt.Sprintf("reprise %.300q", args)
				require.True(t, out != "" || errs != "", what)
				harmless(t, out, what)
				harmless(t, errs, what)
				require.False(t, strings.Contains("\n"+errs, "\nFORGED"), what)
				if format == "table" {
					require.False(t, strings.Contains("\n"+out, "\nFORGED"), what)
					continue
				}
				if strings.HasPrefix(c.path, "completion") || c.path == "help" || out == "" {
					continue
				}
				texts := textsIn(t, out, what)
				if c.names {
					require.Zero(t, code, "%s: %.300s", what, errs)
					for _, s := range seeds {
						require.True(t, slices.Contains(texts, string([]rune(s.name))), "%s: %q is not in it", what, s.name)
					}
				}
			}
		}
		root := newRoot(&app{})
		root.InitDefaultHelpCmd()
		root.InitDefaultCompletionCmd()
		for _, path := range leaves(root, "") {
			require.True(t, called[path], "reprise %s is a command that is not called here", path)
		}
	})
}

// call runs a command until it ends, or until it has shown enough.
func (d *db) call(c command, env map[string]string, args []string) (out, errs string, code int) {
	d.t.Helper()
	if c.until == nil {
		r := d.repriseWith(d.t.Context(), env, strings.NewReader(c.stdin), args...)
		return r.out, r.errs, r.code
	}
	ctx, stop := context.WithCancel(d.t.Context())
	defer stop()
	var stdout lockedBuffer
	done := make(chan int, 1)
	go func() {
		done <- exec(ctx, Config{}, strings.NewReader(""), &stdout, &stdout, args, func(name string) string { return env[name] })
	}()
	c.until(d, &stdout)
	stop()
	code = <-done
	said := stdout.String()
	first := strings.Index(said, "\n") + 1
	last := strings.LastIndex(strings.TrimSuffix(said, "\n"), "\n") + 1
	return said[first:last], said[:first] + said[last:], code
}

// lockedBuffer is a buffer that is read while somebody writes.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// harmless is a text that shows on any terminal as what it is.
func harmless(t *testing.T, text, what string) {
	t.Helper()
	require.True(t, utf8.ValidString(text), "%s: it is not UTF-8", what)
	for at, r := range text {
		hidden := (r < ' ' || r > '~') && (unicode.IsControl(r) && r != '\n' && r != '\t' || r == 0x034f || r == 0x3164 ||
			unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Bidi_Control, unicode.Join_Control, unicode.Variation_Selector))
		if hidden {
			require.Fail(t, "a hidden character is printed", "%s: %U in %.200q", what, r, text[max(0, at-80):])
		}
	}
}

// textsIn are all texts in the JSON that a command printed.
func textsIn(t *testing.T, out, what string) (texts []string) {
	t.Helper()
	var walk func(value any)
	walk = func(value any) {
		switch value := value.(type) {
		case string:
			texts = append(texts, value)
		case []any:
			for _, v := range value {
				walk(v)
			}
		case map[string]any:
			for k, v := range value {
				texts = append(texts, k)
				walk(v)
			}
		}
	}
	for from := json.NewDecoder(strings.NewReader(out)); ; {
		var value any
		err := from.Decode(&value)
		if errors.Is(err, io.EOF) {
			return texts
		}
		require.NoError(t, err, "%s: %.300q", what, out)
		walk(value)
	}
}

// leaves are the commands that do something.
func leaves(c *cobra.Command, path string) (all []string) {
	for _, sub := range c.Commands() {
		name := strings.TrimSpace(path + " " + sub.Name())
		switch {
		case sub.HasSubCommands():
			all = append(all, leaves(sub, name)...)
		case sub.Runnable() && !slices.Contains(all, name):
			all = append(all, name)
		}
	}
	return all
}

// At a terminal, too, where there are colours, bars and questions.
func TestNothingOnRecordControlsTheTerminalOfWhoIsAsked(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		seeds := db.sow()
		run := fmt.Sprint(seeds[4].run)
		for _, c := range []struct {
			question string
			args     []string
		}{
			{"", []string{"runs", "list"}},
			{"", []string{"runs", "show", run, "--stack", "--payload"}},
			{"", []string{"events", "show", seeds[4].name, "--payload"}},
			{"", []string{"doctor"}},
			{"[y/N]", []string{"runs", "discard", run, "--reason", seeds[4].text}},
			{"[y/N]", []string{"runs", "edit", run, "--metadata", seeds[4].name + "=changed" + seeds[4].name}},
			{"[y/N]", []string{"outbox", "send", "--state", "HELD", "--all"}},
			{"", []string{"runs", "discard", run, "--reason", seeds[4].text, "--yes"}},
		} {
			var sit func(*screen)
			if c.question != "" {
				sit = answer(t, c.question, "n\n")
			}
			_, text := db.atTerminal(t.Context(), nil, sit, c.args...)
			text = strings.NewReplacer("\r", "", string(red), "", string(green), "", string(yellow), "", string(plain), "", reset, "").Replace(text)
			require.NotEmpty(t, text)
			harmless(t, text, fmt.Sprintf("reprise %.300q", c.args))
		}
	})
}

// A character that comes in two pieces is one, and what is left of one is shown.
func TestGuard(t *testing.T) {
	t.Parallel()
	for _, text := range append(hostile, "\xe2\x80", "\xf0", "é\xe2") {
		for size := 1; size < 5; size++ {
			var out bytes.Buffer
			g := &guard{to: &out}
			for rest := []byte(text[:min(len(text), 300)]); len(rest) > 0; {
				n, err := g.Write(rest[:min(size, len(rest))])
				require.NoError(t, err)
				rest = rest[n:]
			}
			require.NoError(t, g.close())
			require.Equal(t, visible.Text(text[:min(len(text), 300)]), out.String())
		}
	}
}

// A word that is printed to be typed again is the same word for bash and zsh.
func TestHiddenCharactersAreQuoted(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"plain": "plain", "two words": "'two words'", "": "''",
		"a\u202eb": `$'a\U0000202eb'`, "it's\x1b\\": `$'it\'s\U0000001b\\'`, "\xff\n": `$'\xff\U0000000a'`,
	} {
		require.Equal(t, want, words.Quoted(word))
	}
}
