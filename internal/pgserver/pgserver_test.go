package pgserver

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/beside"
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
	got, err := choose([]Binaries{{"a", 9}, {"b", 16}, {"c", 15}})
	require.NoError(t, err)
	require.Equal(t, Binaries{"b", 16}, got)

	_, err = choose([]Binaries{{"a", 9}, {"b", 12}})
	require.ErrorContains(t, err, "in b, are Postgres 12")

	_, err = choose(nil)
	require.ErrorIs(t, err, ErrNotFound)
}

func TestFindSaysWhatIsWrongWithPGBIN(t *testing.T) {
	t.Setenv("PG_BIN", t.TempDir())
	_, err := Find()
	require.ErrorContains(t, err, "PG_BIN must be the directory of initdb and postgres")
}

func TestTailIsTheLastLines(t *testing.T) {
	require.Equal(t, "a\nb", beside.Tail([]byte("a\nb\n")))
	require.Equal(t, 30, bytes.Count([]byte(beside.Tail(bytes.Repeat([]byte("x\n"), 50))), []byte("x")))
}

func TestAServerRunsUntilStopped(t *testing.T) {
	s, ok := start(t)
	if !ok {
		return
	}
	require.Empty(t, s.Stop())
	require.NoDirExists(t, s.Dir)
}

// The guard sees the launcher die as its end of a pipe closing.
func TestAServerEndsWithItsLauncher(t *testing.T) {
	s, ok := start(t)
	if !ok {
		return
	}
	s.release()
	require.True(t, s.EndsWithin(10*time.Second), "the server outlived its launcher")
	require.NoDirExists(t, s.Dir)
}

func TestAServerThatDiesShowsItsLog(t *testing.T) {
	s, ok := start(t)
	if !ok {
		return
	}
	require.NoError(t, s.process.Process.Signal(os.Interrupt))
	require.True(t, s.EndsWithin(10*time.Second))
	require.Contains(t, s.Stop(), "database system is shut down")
}

// start starts a server. Where a server is given and none is installed there
// is nothing to start, and Find says so.
func start(t *testing.T) (*Server, bool) {
	t.Helper()
	bin, err := Find()
	if os.Getenv("TEST_DATABASE_URL") != "" && errors.Is(err, ErrNotFound) {
		require.ErrorContains(t, err, "install them")
		return nil, false
	}
	require.NoError(t, err)
	s, err := Start(context.Background(), bin)
	require.NoError(t, err)
	t.Cleanup(func() { s.Stop() })

	db, err := sql.Open("postgres", s.URL)
	require.NoError(t, err)
	defer db.Close()
	var one int
	require.NoError(t, db.QueryRow("SELECT 1").Scan(&one))
	require.Equal(t, 1, one)
	return s, true
}
