package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

func TestSignUpAnswersWithTheUser(t *testing.T) {
	url, stop := startServing(t, testdb.SQLite(t), "-handle=false")
	status, answer := post(t, url+"/signup", `{"email": "ada@example.com"}`)
	require.Equal(t, http.StatusCreated, status)
	require.Regexp(t, `^\{"id":"\w+","email":"ada@example.com"\}\n$`, answer)
	require.Zero(t, stop())
}

func TestBadSignUpsAreRefusedAndPublishNothing(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		inApp(t, url, func(a *app) {
			server := httptest.NewServer(a.routes())
			defer server.Close()
			status, _ := post(t, server.URL+"/signup", `{"email": "taken@example.com"}`)
			require.Equal(t, http.StatusCreated, status)

			for body, want := range map[string]int{
				``:                               http.StatusBadRequest,
				`email=ada@example.com`:          http.StatusBadRequest,
				`{"email": 7}`:                   http.StatusBadRequest,
				`["ada@example.com"]`:            http.StatusBadRequest,
				`{"email": "ada@example.com"`:    http.StatusBadRequest,
				strings.Repeat(" ", 5000) + `{}`: http.StatusBadRequest,
				`{}`:                             http.StatusUnprocessableEntity,
				`{"email": ""}`:                  http.StatusUnprocessableEntity,
				`{"email": "ada"}`:               http.StatusUnprocessableEntity,
				`{"email": "ada@example.com\r\nBcc: eve@example.com"}`:      http.StatusUnprocessableEntity,
				`{"email": "Ada <ada@example.com>"}`:                        http.StatusUnprocessableEntity,
				`{"email": "` + strings.Repeat("a", 250) + `@example.com"}`: http.StatusUnprocessableEntity,
				`{"email": "taken@example.com"}`:                            http.StatusConflict,
			} {
				status, answer := post(t, server.URL+"/signup", body)
				require.Equal(t, want, status, "%s: %s", body, answer)
				require.NotEmpty(t, answer)
			}
			response, err := http.Get(server.URL + "/signup")
			require.NoError(t, err)
			status, _ = read(t, response)
			require.Equal(t, http.StatusMethodNotAllowed, status)

			runs, err := a.bus.Store().Runs(t.Context(), store.Filter{})
			require.NoError(t, err)
			require.Len(t, runs, 2, "only the good sign-up was published")
		})
	})
}

// An address that has letters of any alphabet can be mailed.
func TestAnInternationalAddressIsMailed(t *testing.T) {
	inApp(t, testdb.SQLite(t), func(a *app) {
		require.NoError(t, a.sendWelcomeEmail(t.Context(), UserSignedUp{ID: "u1", Email: "jörg@münchen.example"}))
		require.Len(t, a.mail.mails(), 1)
		require.Equal(t, "jörg@münchen.example", a.mail.mails()[0].to)
	})
}

func TestATrialIsGrantedOnce(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		inApp(t, url, func(a *app) {
			user, err := a.signUp(t.Context(), "ada@example.com")
			require.NoError(t, err)
			require.NoError(t, a.grantTrial(t.Context(), user))
			_, err = a.bus.DB().Exec(`UPDATE users SET trial_ends = '2000-01-01'`)
			require.NoError(t, err)
			require.NoError(t, a.grantTrial(t.Context(), user))
			var ends string
			require.NoError(t, a.bus.DB().QueryRow(`SELECT trial_ends FROM users`).Scan(&ends))
			require.Equal(t, "2000-01-01", ends)
		})
	})
}

func TestFailAndReplayByHand(t *testing.T) {
	testdb.Each(t, func(t *testing.T, databaseURL string) {
		url, stop := startServing(t, databaseURL, "-mail-down")
		post(t, url+"/signup", `{"email": "ada@example.com"}`)
		waitForRuns(t, url, func(rows []row) bool { return statuses(rows, "send-welcome-email")["FAILED"] == 1 })

		status, _ := post(t, url+"/mail/up", "")
		require.Equal(t, http.StatusOK, status)
		_, answer := post(t, url+"/replay", "")
		require.Equal(t, "replay 1: failed runs that are due again: 1\n", answer)
		rows := waitForRuns(t, url, func(rows []row) bool { return statuses(rows, "send-welcome-email")["SUCCESS"] == 1 })
		require.Equal(t, map[string]int{"SUCCESS": 1}, statuses(rows, "grant-trial"))

		post(t, url+"/mail/down", "")
		post(t, url+"/signup", `{"email": "grace@example.com"}`)
		waitForRuns(t, url, func(rows []row) bool { return statuses(rows, "send-welcome-email")["FAILED"] == 1 })
		require.Zero(t, stop())
	})
}

// The process dies between the publish and the handlers. The next one runs
// them.
func TestASignUpOutlivesKill9(t *testing.T) {
	testdb.Each(t, func(t *testing.T, databaseURL string) {
		first, url := startProcess(t, databaseURL, "-handle=false")
		status, answer := post(t, url+"/signup", `{"email": "ada@example.com"}`)
		require.Equal(t, http.StatusCreated, status, answer)
		require.Equal(t, map[string]int{"PENDING": 1}, statuses(getRuns(t, url), "send-welcome-email"))
		require.NoError(t, first.Process.Kill())
		require.ErrorContains(t, first.Wait(), "killed")

		second, url := startProcess(t, databaseURL)
		rows := waitForRuns(t, url, func(rows []row) bool {
			return statuses(rows, "send-welcome-email")["SUCCESS"] == 1 && statuses(rows, "grant-trial")["SUCCESS"] == 1
		})
		require.Len(t, rows, 2)
		for _, r := range rows {
			require.Equal(t, "ada@example.com", r.email)
			require.Equal(t, "1", r.attempt)
		}

		require.NoError(t, second.Process.Signal(os.Interrupt))
		require.NoError(t, second.Wait(), "Ctrl-C is a good end")
	})
}

// One process takes sign-ups, another runs the handlers.
func TestAWebProcessAndAWorker(t *testing.T) {
	testdb.Each(t, func(t *testing.T, databaseURL string) {
		_, web := startProcess(t, databaseURL, "-handle=false")
		_, worker := startProcess(t, databaseURL)
		post(t, web+"/signup", `{"email": "ada@example.com"}`)
		for _, url := range []string{web, worker} {
			waitForRuns(t, url, func(rows []row) bool {
				return statuses(rows, "send-welcome-email")["SUCCESS"] == 1 && statuses(rows, "grant-trial")["SUCCESS"] == 1
			})
		}
	})
}

// startProcess starts the example with -serve as a process of its own.
func startProcess(t *testing.T, databaseURL string, args ...string) (process *exec.Cmd, url string) {
	t.Helper()
	process = exec.Command(os.Args[0], append([]string{"-serve", "-addr", "127.0.0.1:0"}, args...)...)
	process.Env = append(os.Environ(), "BE_THE_EXAMPLE=1", "DATABASE_URL="+databaseURL)
	process.Stderr = t.Output()
	stdout, err := process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
	return process, servingURL(t, stdout)
}
