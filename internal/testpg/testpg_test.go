package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseMajor(t *testing.T) {
	for version, want := range map[string]int{
		"postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n": 15,
		"postgres (PostgreSQL) 9.6.24\n":                         9,
		"postgres (PostgreSQL) 18beta1\n":                        18,
		"postgres (PostgreSQL) 17.5 (Homebrew)":                  17,
	} {
		got, err := parseMajor(version)
		require.NoError(t, err, version)
		require.Equal(t, want, got, version)
	}
	for _, version := range []string{"", "postgres", "postgres (PostgreSQL) devel"} {
		_, err := parseMajor(version)
		require.ErrorContains(t, err, "no version number", version)
	}
}

func TestChoose(t *testing.T) {
	got, err := choose([]binaries{{"a", 9}, {"b", 16}, {"c", 15}})
	require.NoError(t, err)
	require.Equal(t, binaries{"b", 16}, got)

	_, err = choose([]binaries{{"a", 9}, {"b", 12}})
	require.ErrorContains(t, err, "in b, are Postgres 12")

	_, err = choose(nil)
	require.ErrorIs(t, err, errNoServer)
}

func TestFindSaysWhatIsWrongWithPGBIN(t *testing.T) {
	t.Setenv("PG_BIN", t.TempDir())
	_, err := find()
	require.ErrorContains(t, err, "PG_BIN must be the directory of initdb and postgres")
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"postgres://u:secret@h:1/db?sslmode=disable":    "postgres://u:xxxxx@h:1/db?sslmode=disable",
		"postgres://u@h/db?password=secret&user=u":      "postgres://u@h/db?password=xxxxx&user=u",
		"postgres://u@h/db?sslmode=disable&connect=100": "postgres://u@h/db?sslmode=disable&connect=100",
		"postgres://u:se%zzcret@h/db":                   "an unreadable URL",
	} {
		require.Equal(t, want, redact(in))
	}
}

func TestConnectRefusesInOneSentence(t *testing.T) {
	for url, want := range map[string]string{
		"host=localhost password=secret":                  "TEST_DATABASE_URL is not a postgres:// URL",
		"postgres://u:secret@127.0.0.1:1/db":              "cannot connect to postgres://u:xxxxx@127.0.0.1:1/db, the server of TEST_DATABASE_URL",
		"postgres://u:secret@127.0.0.1:1/db?sslmode=what": "cannot connect to postgres://u:xxxxx@127.0.0.1:1/db?sslmode=what",
	} {
		err := connect(t.Context(), url)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "secret")
		require.NotContains(t, err.Error(), "\n")
	}
}

func TestTailIsTheLastLines(t *testing.T) {
	require.Equal(t, "a\nb", tail([]byte("a\nb\n")))
	require.Equal(t, 20, bytes.Count([]byte(tail(bytes.Repeat([]byte("x\n"), 50))), []byte("x")))
}

func TestClusterRunsUntilStopped(t *testing.T) {
	c, ok := start(t)
	if !ok {
		return
	}
	require.Empty(t, c.stop())
	require.NoDirExists(t, c.dir)
}

// The guard sees the launcher die as its end of a pipe closing.
func TestClusterEndsWithItsLauncher(t *testing.T) {
	c, ok := start(t)
	if !ok {
		return
	}
	c.release()
	require.True(t, c.endsWithin(10*time.Second), "the server outlived its launcher")
	require.NoDirExists(t, c.dir)
}

func TestClusterThatDiesShowsItsLog(t *testing.T) {
	c, ok := start(t)
	if !ok {
		return
	}
	require.NoError(t, c.server.Process.Signal(os.Interrupt))
	require.True(t, c.endsWithin(10*time.Second))
	require.Contains(t, c.stop(), "database system is shut down")
}

// start starts a cluster. Where a server is given and none is installed there
// is nothing to start, and the launcher says so.
func start(t *testing.T) (*cluster, bool) {
	t.Helper()
	bin, err := find()
	if os.Getenv("TEST_DATABASE_URL") != "" && errors.Is(err, errNoServer) {
		require.ErrorContains(t, err, "TEST_DATABASE_URL")
		return nil, false
	}
	require.NoError(t, err)
	c, err := startCluster(context.Background(), bin.dir, false)
	require.NoError(t, err)
	t.Cleanup(func() { c.stop() })

	db, err := sql.Open("postgres", c.url)
	require.NoError(t, err)
	defer db.Close()
	var one int
	require.NoError(t, db.QueryRow("SELECT 1").Scan(&one))
	require.Equal(t, 1, one)
	return c, true
}
