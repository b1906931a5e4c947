package main

import (
	"bytes"
	"context"
	"database/sql"
	"os"
	"regexp"
	"strings"
	"testing"

	_ "github.com/lib/pq"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/reprise-bus/reprise/internal/testdb"
)

const refusal = "4.3.2 the mail server is down for maintenance"

func TestTheStoryShowsPendingThenFailedThenHealed(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		inApp(t, url, func(a *app) {
			var out bytes.Buffer
			require.NoError(t, a.play(t.Context(), &out))
			t.Log("\n" + out.String())

			tables := parseTables(t, out.String())
			require.Len(t, tables, 3)
			for i, want := range []struct {
				mail, mailAttempt   string
				trial, trialAttempt string
			}{
				{"PENDING", "0", "PENDING", "0"},
				{"FAILED", "1", "SUCCESS", "1"},
				{"SUCCESS", "2", "SUCCESS", "1"},
			} {
				require.Len(t, tables[i], 6)
				for _, r := range tables[i] {
					switch r.handler {
					case "send-welcome-email":
						require.Equal(t, want.mail, r.status)
						require.Equal(t, want.mailAttempt, r.attempt)
					case "grant-trial":
						require.Equal(t, want.trial, r.status)
						require.Equal(t, want.trialAttempt, r.attempt)
					default:
						t.Errorf("what is handler %q?", r.handler)
					}
					if r.status == "FAILED" {
						require.Contains(t, r.err, "451")
						require.Contains(t, r.err, refusal)
					} else {
						require.Empty(t, r.err)
					}
				}
			}

			everybody := []string{"ada@example.com", "barbara@example.com", "grace@example.com"}
			var mailed []string
			for _, m := range a.mail.mails() {
				mailed = append(mailed, m.to)
				require.Contains(t, m.message, "To: "+m.to+"\r\n")
				require.Contains(t, m.message, "\r\nMessage-Id: <welcome-")
				require.Contains(t, m.message, "\r\n\r\nGood to have you.\r\n")
			}
			require.ElementsMatch(t, everybody, mailed)
			require.ElementsMatch(t, everybody, usersWithTrial(t, a.bus.DB()))
			require.Contains(t, out.String(), "3 runs failed, with the reason on record; replay 1 ran them again, and 3 mails are out.")
		})
	})
}

func TestTheStoryCanBePlayedAgain(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		emails := map[string]bool{}
		for range 3 {
			stdout, stderr, code := runExample(t, url)
			require.Zero(t, code, stderr)
			require.Empty(t, stderr)
			tables := parseTables(t, stdout)
			require.Len(t, tables, 3)
			for _, table := range tables {
				require.Len(t, table, 6, "another time's runs are shown")
			}
			for _, r := range tables[2] {
				emails[r.email] = true
			}
		}
		require.Len(t, emails, 9)
	})
}

// Runs of a process that died before it handled them are picked up.
func TestTheStoryIncludesWhatWasLeftBehind(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		inApp(t, url, func(a *app) {
			_, err := a.signUp(t.Context(), "left@example.com")
			require.NoError(t, err)
		})
		stdout, stderr, code := runExample(t, url)
		require.Zero(t, code, stderr)
		tables := parseTables(t, stdout)
		require.Len(t, tables, 3)
		require.Len(t, tables[2], 8)
		require.Equal(t, "left@example.com", tables[2][0].email)
		require.Equal(t, map[string]int{"FAILED": 4}, statuses(tables[1], "send-welcome-email"))
		require.Equal(t, map[string]int{"SUCCESS": 4}, statuses(tables[2], "send-welcome-email"))
	})
}

// What the story says to type works, and shows no password.
func TestTheStoryEndsWithCommandsThatWork(t *testing.T) {
	t.Run("default", func(t *testing.T) {
		t.Setenv("TMPDIR", t.TempDir())
		stdout, stderr, code := runExample(t, "")
		require.Zero(t, code, stderr)
		shown := regexp.MustCompile(`sqlite3 -box (\S+) "(.*)"`).FindAllStringSubmatch(stdout, -1)
		require.Len(t, shown, 2)
		file := shown[0][1]
		require.True(t, strings.HasPrefix(file, os.Getenv("TMPDIR")))
		require.Contains(t, stdout, "DATABASE_URL=sqlite:"+file+" go run ./example -serve")
		require.FileExists(t, file)
		db, err := sql.Open("sqlite", file)
		require.NoError(t, err)
		defer db.Close()
		require.Equal(t, []int{6, 3}, []int{countRows(t, db, shown[0][2]), countRows(t, db, shown[1][2])})
	})
	t.Run("postgres", func(t *testing.T) {
		url := testdb.Postgres(t)
		stdout, stderr, code := runExample(t, url)
		require.Zero(t, code, stderr)
		require.NotContains(t, stdout, "postgres://")
		shown := regexp.MustCompile(`psql "\$DATABASE_URL" -c "(.*)"`).FindAllStringSubmatch(stdout, -1)
		require.Len(t, shown, 2)
		db, err := sql.Open("postgres", url)
		require.NoError(t, err)
		defer db.Close()
		require.Equal(t, []int{6, 3}, []int{countRows(t, db, shown[0][1]), countRows(t, db, shown[1][1])})
	})
}

func TestAnInterruptedStoryEndsAndSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	require.Equal(t, 1, run(ctx, nil, &out, &errs, env(testdb.SQLite(t))))
	require.Contains(t, errs.String(), "canceled")
}

// inApp calls f with an app that is open.
func inApp(t *testing.T, databaseURL string, f func(a *app)) {
	t.Helper()
	require.NoError(t, withApp(t.Context(), databaseURL, "", t.Output(), func(a *app) error {
		f(a)
		return nil
	}))
}

func usersWithTrial(t *testing.T, db *sql.DB) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT email FROM users WHERE trial_ends IS NOT NULL`)
	require.NoError(t, err)
	defer rows.Close()
	var emails []string
	for rows.Next() {
		var email string
		require.NoError(t, rows.Scan(&email))
		emails = append(emails, email)
	}
	require.NoError(t, rows.Err())
	return emails
}

func countRows(t *testing.T, db *sql.DB, query string) int {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	require.NoError(t, err)
	defer rows.Close()
	n := 0
	for rows.Next() {
		n++
	}
	require.NoError(t, rows.Err())
	return n
}
