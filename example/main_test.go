package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary be the example itself, for tests that kill it.
func TestMain(m *testing.M) {
	if os.Getenv("BE_THE_EXAMPLE") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestHelpExplainsTheFlags(t *testing.T) {
	_, stderr, code := runExample(t, "", "-h")
	require.Zero(t, code)
	for _, word := range []string{"usage: go run ./example", "DATABASE_URL", "-serve", "-addr", "-handle", "-mail-down"} {
		require.Contains(t, stderr, word)
	}
}

func TestWrongUseIsExplained(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, wrong := range []struct {
		databaseURL string
		args        []string
		code        int
		says        string
	}{
		{"", []string{"-nonsense"}, 2, "-nonsense"},
		{"", []string{"serve"}, 2, "see -h"},
		{"", []string{"-mail-down"}, 2, "see -h"},
		{"mysql://localhost", nil, 1, "want postgres://"},
		{"sqlite:" + t.TempDir() + "/missing/app.db", nil, 1, "unable to open database file"},
		{"sqlite:" + t.TempDir() + "/app.db", []string{"-serve", "-addr", taken.Addr().String()}, 1, "address already in use"},
	} {
		stdout, stderr, code := runExample(t, wrong.databaseURL, wrong.args...)
		require.Equal(t, wrong.code, code, "%+v", wrong)
		require.Contains(t, stderr, wrong.says)
		require.NotContains(t, stdout, "curl")
	}
}

// runExample runs the program to its end.
func runExample(t *testing.T, databaseURL string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs, env(databaseURL))
	return out.String(), errs.String(), code
}

// startServing runs the program with -serve until the returned function is
// called, which returns the exit code.
func startServing(t *testing.T, databaseURL string, args ...string) (url string, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stdout, out := io.Pipe()
	code := make(chan int, 1)
	go func() {
		defer out.Close()
		code <- run(ctx, append([]string{"-serve", "-addr", "127.0.0.1:0"}, args...), out, t.Output(), env(databaseURL))
	}()
	t.Cleanup(cancel)
	return servingURL(t, stdout), func() int {
		cancel()
		return <-code
	}
}

// servingURL reads what -serve prints, and returns where it serves.
func servingURL(t *testing.T, stdout io.Reader) string {
	t.Helper()
	lines := bufio.NewReader(stdout)
	first, err := lines.ReadString('\n')
	require.NoError(t, err)
	go io.Copy(io.Discard, lines) // or the program would wait for a reader
	_, rest, found := strings.Cut(first, "Serving on ")
	require.True(t, found, first)
	url, _, _ := strings.Cut(rest, " ")
	return url
}

func env(databaseURL string) func(string) string {
	return func(name string) string {
		if name == "DATABASE_URL" {
			return databaseURL
		}
		return ""
	}
}

func post(t *testing.T, url, body string) (status int, answer string) {
	t.Helper()
	response, err := http.Post(url, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	return read(t, response)
}

// getRuns returns the table of runs that the service shows.
func getRuns(t *testing.T, url string) []row {
	t.Helper()
	response, err := http.Get(url + "/runs")
	require.NoError(t, err)
	status, answer := read(t, response)
	require.Equal(t, http.StatusOK, status)
	tables := parseTables(t, answer)
	require.Len(t, tables, 1)
	return tables[0]
}

func read(t *testing.T, response *http.Response) (status int, answer string) {
	t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

// row is a line of the table of runs.
type row struct{ run, email, handler, status, attempt, err string }

// parseTables returns the tables of runs that stand in the text.
func parseTables(t *testing.T, text string) [][]row {
	t.Helper()
	var (
		tables [][]row
		inside bool
	)
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 0 && fields[0] == "RUN":
			require.Equal(t, []string{"RUN", "EMAIL", "HANDLER", "STATUS", "ATTEMPT", "ERROR"}, fields)
			tables, inside = append(tables, nil), true
		case len(fields) < 5:
			inside = false
		case inside:
			last := len(tables) - 1
			tables[last] = append(tables[last], row{fields[0], fields[1], fields[2], fields[3], fields[4], strings.Join(fields[5:], " ")})
		}
	}
	return tables
}

// statuses counts the statuses of the runs of a handler.
func statuses(rows []row, handler string) map[string]int {
	counts := map[string]int{}
	for _, r := range rows {
		if r.handler == handler {
			counts[r.status]++
		}
	}
	return counts
}

// waitForRuns asks the service until its runs are as wanted.
func waitForRuns(t *testing.T, url string, wanted func([]row) bool) []row {
	t.Helper()
	deadline := time.After(time.Minute)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		rows := getRuns(t, url)
		if wanted(rows) {
			return rows
		}
		select {
		case <-deadline:
			t.Fatalf("the runs are not as wanted within 30 s: %+v", rows)
		case <-ticker.C:
		}
	}
}
