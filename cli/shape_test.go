package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/store"
)

// Scripts rely on the names in the JSON that commands print: what is in the
// golden file may be added to, and nothing in it may go.
func TestTheShapeOfTheJSON(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail", "trial")
		require.NoError(t, db.Register(t.Context(), store.Instance{ID: "host/1/abc", DeadAfter: time.Hour, Handlers: []string{"mail"}}))
		db.failed("mail", 3)
		db.outbox("orders", 3, true)
		require.NoError(t, db.DeclareTopics(t.Context(), []store.Topic{{Topic: store.AllTopics, Transport: "kafka"}}))
		var out strings.Builder
		for _, command := range []string{
			"migrate status", "version", "publish other {}", "runs list --limit 2", "runs count", "runs groups", "runs replay --all --dry-run",
			"runs replay 1 --yes", "runs discard 2 --reason test --yes", "runs show 1 --payload --stack", "runs edit 3 --metadata a=b --yes", "runs export 3",
			"replays list --limit 2", "replays show 2", "events list --limit 1", "events show mail-failed-0 --payload", "handlers list",
			"backfill trial --dry-run", "prune --older-than 1d --yes", "doctor",
			"outbox list --limit 2", "outbox status", "outbox release --all --dry-run", "outbox release 1 --reason test --yes", "outbox show 1 --payload", "topics list",
		} {
			r := db.reprise(append(strings.Fields(command), "-o", "json")...)
			require.NotContains(t, []int{exitFailed, exitUsage, exitNothing}, r.code, r.errs)
			var data any
			r.json(&data)
			fmt.Fprintf(&out, "reprise %s\n", command)
			for _, path := range slices.Compact(slices.Sorted(slices.Values(paths("", data)))) {
				fmt.Fprintf(&out, "  %s\n", path)
			}
		}
		golden, err := os.ReadFile("testdata/shape.txt")
		require.NoError(t, err)
		require.Equal(t, string(golden), out.String())
	})
}

// paths are the names in a JSON value, with what leads to them.
func paths(to string, data any) (all []string) {
	switch data := data.(type) {
	case map[string]any:
		for name, value := range data {
			all = append(all, paths(to+"."+name, value)...)
		}
		if len(data) == 0 {
			all = append(all, to)
		}
	case []any:
		for _, value := range data {
			all = append(all, paths(to+"[]", value)...)
		}
		if len(data) == 0 {
			all = append(all, to+"[]")
		}
	default:
		all = append(all, to)
	}
	return all
}

// Every command says what it is for, and how it is used.
func TestHelp(t *testing.T) {
	t.Parallel()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Name() == "completion" || c.Name() == "help" {
			return
		}
		require.NotEmpty(t, c.Short, c.CommandPath())
		require.NotEmpty(t, c.Example, c.CommandPath())
		for line := range strings.SplitSeq(c.Long, "\n") {
			require.LessOrEqual(t, len([]rune(line)), 80, "%s: %s", c.CommandPath(), line)
		}
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		if help := on(t, "", args...).ok().out; c.Runnable() {
			require.Contains(t, help, c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRoot(&app{getenv: os.Getenv}))
	require.Contains(t, on(t, "", "help", "exit-codes").ok().out, "130  interrupted")
	require.Contains(t, on(t, "", "runs").ok().out, "replay")
}

// Every example in the help is understood.
func TestTheExamplesInTheHelp(t *testing.T) {
	t.Parallel()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		for line := range strings.SplitSeq(c.Example, "\n") {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "reprise ") {
				continue
			}
			args := wordsOf(strings.Split(strings.Split(line, " <")[0], ";")[0])[1:]
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "sqlite:app.db", "sqlite:"+t.TempDir()+"/app.db")
			}
			r := on(t, "sqlite:/nonexistent/none.db", args...)
			require.NotEqual(t, exitUsage, r.code, "%s: %s", line, r.errs)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRoot(&app{getenv: os.Getenv}))
}

// So is every command in the docs.
func TestTheExamplesInTheDocs(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range append(files, "../README.md") {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		examples := 0
		for line := range strings.SplitSeq(string(text), "\n") {
			command, found := strings.CutPrefix(strings.TrimPrefix(strings.TrimLeft(line, " "), "$ "), "reprise ")
			if !found || !strings.HasPrefix(line, "    ") {
				continue
			}
			examples++
			command, _, _ = strings.Cut(command, " #")
			for _, redirection := range []string{" <", " >", " |"} {
				command, _, _ = strings.Cut(command, redirection)
			}
			r := on(t, "sqlite:/nonexistent/none.db", wordsOf(command)...)
			require.NotEqual(t, exitUsage, r.code, "%s: %s: %s", file, line, r.errs)
		}
		if filepath.Base(file) == "cli.md" {
			require.Greater(t, examples, 20)
		}
	}
}

// words are those of a line as a shell takes them.
func wordsOf(line string) (all []string) {
	var word strings.Builder
	quote, begun := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quote, begun = !quote, true
		case r == ' ' && !quote:
			if begun {
				all = append(all, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if begun {
		all = append(all, word.String())
	}
	return all
}

func TestASelectionIsWrittenAsItIsTyped(t *testing.T) {
	t.Parallel()
	for _, typed := range []string{
		"1 2 --status FAILED --handler 'two words' --topic t --event e --key 'it'\\''s' --kind panic --text down --group 0123456789abcdef --replay 7 --since 2026-07-01T00:00:00Z --until 2026-07-02T00:00:00Z --payload a.b=1 --payload 'c!=x y'",
		"--status FAILED",
	} {
		var s selection
		c := &cobra.Command{Use: "test"}
		s.add(c)
		plain := strings.ReplaceAll(typed, `'it'\''s'`, "its")
		require.NoError(t, c.ParseFlags(wordsOf(plain)))
		f, err := s.of(c.Flags().Args())
		require.NoError(t, err)
		if f.Key != "" {
			f.Key = "it's"
		}
		require.Equal(t, typed, flagsOf(f))
		_, err = json.Marshal(f)
		require.NoError(t, err)
	}
}
