package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/pgserver"
)

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

func TestWithoutAServerItSaysWhatToDo(t *testing.T) {
	require.ErrorIs(t, errNoServer, pgserver.ErrNotFound)
	for _, way := range []string{"install them", "set PG_BIN", "set TEST_DATABASE_URL"} {
		require.ErrorContains(t, errNoServer, way)
	}
}

func TestTheLanguageOfTheSettings(t *testing.T) {
	require.Empty(t, language(nil))
	require.Empty(t, language([]string{"fsync=on", "lc_messages=C"}))
	require.Equal(t, "de_DE.UTF-8", language([]string{"lc_messages=C", "LC_Messages = 'de_DE.UTF-8'"}))
	require.Equal(t, spelled("de_DE.utf8"), spelled("de_DE.UTF-8"))
}

// A server that answers in no other language than that of C is reported.
func TestAServerThatSpeaksOneLanguageIsReported(t *testing.T) {
	bin, err := pgserver.Find()
	require.NoError(t, err)
	server, err := pgserver.Start(t.Context(), bin, "shared_buffers=16MB")
	require.NoError(t, err)
	t.Cleanup(func() { server.Stop() })
	require.ErrorContains(t, speaks(t.Context(), server.URL, "de_DE.UTF-8"), `the server has no messages in the language of de_DE.UTF-8: it says "pq: division by zero`)
}
