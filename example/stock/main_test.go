package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
)

// The story is the same each time, on either database.
func TestTheStory(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		stdout, stderr, code := runStock(t, "-db", url)
		require.Zero(t, code, stderr)
		require.Empty(t, stderr)
		want, err := os.ReadFile("testdata/story.txt")
		require.NoError(t, err)
		require.Equal(t, string(want), trimmed(stdout))
	})
}

func TestTheStoryCanBePlayedAgain(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		for range 2 {
			stdout, stderr, code := runStock(t, "-db", url)
			require.Zero(t, code, stderr)
			require.Equal(t, 2, strings.Count(stdout, "LAMP   SUCCESS"), "another time's runs are shown:\n%s", stdout)
			require.Equal(t, 3, strings.Count(stdout, "TENT   1")+strings.Count(stdout, "TENT   2")+strings.Count(stdout, "TENT   3"), stdout)
			require.Contains(t, stdout, " ran 2 runs again. The 9 attempts of run ")
		}
	})
}

func TestWithoutADatabaseNothingIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	_, stderr, code := runStock(t)
	require.Zero(t, code, stderr)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestWrongUseIsExplained(t *testing.T) {
	for _, wrong := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-h"}, 0, "usage: go run ./example/stock"},
		{[]string{"-nonsense"}, 2, "-nonsense"},
		{[]string{"play"}, 2, "see -h"},
		{[]string{"-db", "mysql://localhost"}, 1, "want postgres://"},
		{[]string{"-db", "sqlite:" + t.TempDir() + "/missing/stock.db"}, 1, "unable to open database file"},
	} {
		stdout, stderr, code := runStock(t, wrong.args...)
		require.Equal(t, wrong.code, code, "%+v", wrong)
		require.Contains(t, stderr, wrong.says)
		require.Empty(t, stdout)
	}
}

func TestAnInterruptedStoryEndsAndSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	require.Equal(t, 1, run(ctx, nil, &out, &errs))
	require.Contains(t, errs.String(), "canceled")
}

// runStock runs the program to its end.
func runStock(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return out.String(), errs.String(), code
}

// trimmed removes what pads the ends of lines.
func trimmed(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimRight(line, " \n")+"\n")
	}
	return strings.Join(lines, "")
}
