package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/health"
	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/store"
)

func TestEvents(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.reprise("events", "list").fails(exitNothing, "no event is selected")
		db.failed("mail", 3)
		r := db.reprise("events", "list").ok()
		lines := strings.Split(r.out, "\n")
		require.Equal(t, []string{"EVENT", "TOPIC", "KEY", "SOURCE", "PUBLISHED", "BYTES"}, strings.Fields(lines[0]))
		require.Contains(t, lines[1], "mail-failed-2")
		require.NotContains(t, r.out, "ada@example.com")

		var seen []string
		for before := ""; ; {
			args := []string{"events", "list", "--topic", topic, "--since", "1h", "--limit", "2", "-o", "json"}
			if before != "" {
				args = append(args, "--before", before)
			}
			var page wire.Events
			db.reprise(args...).ok().json(&page)
			for _, e := range page.Events {
				seen = append(seen, e.ID)
			}
			if page.Next == nil {
				break
			}
			before = *page.Next
		}
		require.Equal(t, []string{"mail-failed-2", "mail-failed-1", "mail-failed-0"}, seen)
		require.Len(t, strings.Split(db.reprise("events", "list", "--key", "user-1").ok().out, "\n"), 3)
		db.reprise("events", "list", "--before", "yesterday").fails(exitUsage, "want it as the last page said it")
		db.reprise("events", "list", "--since", "1h", "--until", "2h").fails(exitUsage, "is not before until")

		r = db.reprise("events", "show", "mail-failed-1").ok()
		require.Contains(t, r.out, "FAILED")
		require.NotContains(t, r.out, "ada@example.com")
		require.Contains(t, db.reprise("events", "show", "mail-failed-1", "--payload", "--topic", topic).ok().out, "ada@example.com")
		db.reprise("events", "show", "mail-failed-1", "--topic", "other").fails(exitNothing, `event "mail-failed-1" is not there on topic other`)
	})
}

func TestHandlers(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.reprise("handlers", "list").fails(exitNothing, "no handler is subscribed")
		db.subscribe("trial")
		db.serve("mail", func() error { return nil })
		db.reprise("publish", topic, "{}").ok()
		r := db.reprise("handlers", "list").ok()
		require.Contains(t, r.out, "2 × 3 attempts, cycles 1h apart, timeout 10s")
		var list wire.Handlers
		db.reprise("handlers", "list", "-o", "json").ok().json(&list)
		require.Len(t, list.Handlers, 2)
		require.Equal(t, []int{1, 0}, []int{list.Handlers[0].Instances, list.Handlers[1].Instances})
		require.EqualValues(t, 1, list.Handlers[1].Due.N)
		require.NotNil(t, list.Handlers[1].OldestDue)
	})
}

func TestAHandlerThatIsNoMoreIsRemoved(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		require.NoError(t, db.Subscribe(t.Context(), store.Subscription{Topic: "other", Handler: "mail"}, ""))
		db.reprise("publish", topic, "{}").ok()
		db.reprise("handlers", "remove", "gone").fails(exitNothing, `handler "gone" has no such subscription`)
		db.reprise("handlers", "remove", "mail", "--yes").fails(exitUsage, "say which with --topic")
		db.reprise("handlers", "remove", "mail", "--topic", topic).fails(exitUsage, "End the subscription of mail to user.signed_up, of whose runs 1 are due? There is no terminal")
		db.reprise("actions", "list").fails(exitNothing, "no action is on record")
		db.reprise("handlers", "remove", "mail", "--topic", topic, "--yes", "--by", "maria", "--reason", "it is gone").ok()
		require.Regexp(t, `remove +mail --topic user.signed_up +0 +maria .* it is gone`, db.reprise("actions", "list").ok().out)
		db.reprise("publish", topic, "{}").ok()
		require.Equal(t, "1\n", db.reprise("runs", "count").ok().out)
		require.NoError(t, db.Register(t.Context(), store.Instance{ID: "host/1/abc", DeadAfter: time.Hour, Handlers: store.Serving([]store.Subscription{{Topic: "other", Handler: "mail"}})}))
		db.reprise("handlers", "remove", "mail", "--yes").fails(exitFailed, `handler "mail" on topic "other" is served by 1 instance`)
		require.NoError(t, db.Subscribe(t.Context(), store.Subscription{Topic: "left", Handler: "mail"}, ""))
		checked := checkOf(t, db.reprise("doctor", "-o", "json"), "handlers")
		require.Contains(t, checked.Text, "no live instance serves mail on left", "a topic that a group has lost")
		require.NotContains(t, checked.Text, "other")
		require.Contains(t, db.reprise("handlers", "remove", "mail", "--topic", "left", "--yes").ok().errs, "mail gets no more runs of left.")
	})
}

func TestPrune(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.failed("mail", 1)
		db.ended("mail", 2, store.Success)
		old := time.Now().Add(-48 * time.Hour).UTC().Format("2006-01-02T15:04:05.000Z")
		db.exec(`UPDATE reprise.events SET published_at = $1`, old)
		db.exec(`UPDATE reprise.handler_runs SET finished_at = $1 WHERE status = 'SUCCESS'`, old)
		db.exec(`UPDATE reprise.handler_runs SET finished_at = $1, failed_at = $1 WHERE status = 'FAILED'`, old)
		require.NoError(t, db.Sent(t.Context(), db.outbox("orders", 2, false)[:1]))
		db.exec(`UPDATE reprise.outbox SET written_at = $1, sent_at = $2`, old, old)
		db.reprise("prune", "--yes").fails(exitUsage, "--older-than is missing")
		db.reprise("prune", "--older-than", "1d").fails(exitUsage, "There is no terminal to ask on: say --yes")
		require.Equal(t, "Deleted 0 events with 0 runs, and 0 messages of the outbox.\n", db.reprise("prune", "--older-than", "3d", "--yes").ok().out)
		require.Equal(t, "Deleted 2 events with 2 runs, and 1 message of the outbox.\n", db.reprise("prune", "--older-than", "1d", "--yes").ok().out)
		var pruned struct{ Events, Runs int }
		db.reprise("prune", "--older-than", "1d", "--failed", "--yes", "-o", "json").ok().json(&pruned)
		require.Equal(t, 1, pruned.Events)
		var done struct {
			Actions []struct {
				Action, By, Reason     string
				Runs, Events, Messages int
				Failed                 bool
			}
		}
		db.reprise("actions", "list", "-o", "json").ok().json(&done)
		require.Len(t, done.Actions, 2, "nothing was deleted by the first")
		require.Equal(t, 1, done.Actions[0].Events)
		require.True(t, done.Actions[0].Failed)
		require.Equal(t, [3]int{2, 2, 1}, [3]int{done.Actions[1].Events, done.Actions[1].Runs, done.Actions[1].Messages})
		require.Equal(t, "0\n", db.reprise("runs", "count").ok().out)
	})
}

// severities are what doctor found, by check.
func severities(t *testing.T, r result) map[string]health.Severity {
	t.Helper()
	var found struct{ Checks []health.Finding }
	r.json(&found)
	by := map[string]health.Severity{}
	for _, c := range found.Checks {
		by[c.Check] = c.Severity
		require.Equal(t, c.Severity != health.OK, c.Advice != "", "%s: what is wrong comes with what to do", c.Check)
	}
	return by
}

func TestDoctor(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		found := severities(t, db.reprise("doctor", "-o", "json").fails(exitCritical, ""))
		require.Equal(t, health.Critical, found["instances"])

		require.NoError(t, db.Register(t.Context(), store.Instance{ID: "host/1/abc", DeadAfter: time.Hour, Handlers: []string{"mail"}}))
		db.subscribe("mail")
		r := db.reprise("doctor").ok()
		require.NotContains(t, r.out, string(health.Warning))
		for _, severity := range severities(t, db.reprise("doctor", "-o", "json").ok()) {
			require.Equal(t, health.OK, severity)
		}

		db.subscribe("gone")
		db.failed("mail", 1)
		db.reprise("runs", "replay", "--all", "--yes").ok()
		db.reprise("replays", "pause", "1").ok()
		db.failed("trial", 1)
		require.NoError(t, db.Register(t.Context(), store.Instance{ID: "host/2/def"}))
		db.exec(`UPDATE reprise.instances SET heartbeat_at = $1 WHERE id = 'host/2/def'`, before(time.Hour))
		found = severities(t, db.reprise("doctor", "-o", "json").fails(exitWarning, ""))
		require.Equal(t, map[string]health.Severity{"instances": health.Warning, "handlers": health.Warning, "failures": health.Warning, "operations": health.Warning, "due": health.OK},
			map[string]health.Severity{"instances": found["instances"], "handlers": found["handlers"], "failures": found["failures"], "operations": found["operations"], "due": found["due"]})

		db.reprise("publish", topic, "{}").ok()
		db.exec(`UPDATE reprise.handler_runs SET due_at = $1 WHERE handler = 'gone' AND due_at IS NOT NULL`, before(5*time.Minute))
		found = severities(t, db.reprise("doctor", "-o", "json").fails(exitWarning, ""))
		require.Equal(t, health.Warning, found["due"])
		found = severities(t, db.reprise("doctor", "--due-critical", "3m", "-o", "json").fails(exitCritical, ""))
		require.Equal(t, health.Critical, found["due"])
		found = severities(t, db.reprise("doctor", "--due-warn", "1h", "--due-critical", "2h", "-o", "json").fails(exitWarning, ""))
		require.Equal(t, health.OK, found["due"])

		r = db.reprise("doctor").fails(exitWarning, "")
		require.Contains(t, r.out, "reprise runs groups --since 1d")
		require.Contains(t, r.out, "paused: 1 (replay by ")
		db.exec(`UPDATE reprise.operations SET state = 'running', complete = $1, requested_at = $2`, false, before(time.Hour))
		require.Contains(t, db.reprise("doctor").fails(exitWarning, "").out, "incomplete: 1 (replay by ")
	})
}

// SQLite's tables refuse what PostgreSQL's would make every statement pay for.
func TestDoctorFindsWhatSomebodyChangedByHand(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		require.NoError(t, db.Register(t.Context(), store.Instance{ID: "host/1/abc", DeadAfter: time.Hour, Handlers: []string{"mail"}}))
		db.subscribe("mail")
		kind, err := dialect.Detect(t.Context(), db.DB().DB)
		require.NoError(t, err)
		ids := db.failed("mail", 1)
		rows := func() health.Severity { return severities(t, db.reprise("doctor", "-o", "json"))["rows"] }
		for _, change := range []string{
			`status = 'SUCCESS'`, `status = 'DISCARDED'`, `status = 'PENDING'`, `status = 'PENDING', finished_at = NULL, failed_at = NULL, instance = NULL`,
			`due_at = now()`, `error_kind = NULL`, `failed_at = NULL`, `discarded_at = now()`, `finished_at = NULL`,
		} {
			require.Equal(t, health.OK, rows())
			change = strings.ReplaceAll(change, "now()", "'"+before(0)+"'")
			_, err := db.DB().ExecContext(t.Context(), kind.Qualify(db.Schema(), `UPDATE reprise.handler_runs SET `+change))
			if kind == dialect.SQLite {
				require.ErrorContains(t, err, "CHECK constraint failed", change)
				continue
			}
			require.NoError(t, err, change)
			require.Equal(t, health.Warning, rows(), change)
			out := db.reprise("doctor").fails(exitWarning, "").out
			require.Contains(t, out, fmt.Sprintf("neither run nor listed: %d\n", ids[0]))
			_, mend, found := strings.Cut(out, "To have them run again:\n")
			require.True(t, found)
			db.run(mend)
			require.Equal(t, store.Pending, db.status(ids[0]))
			require.Equal(t, ids, db.failed("mail", 1), "its event delivered, and failed, again")
		}
	})
}

func TestDoctorLooksIntoTheOutbox(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		require.NoError(t, db.Register(t.Context(), store.Instance{ID: "host/1/abc", DeadAfter: time.Hour}))
		doctor := func(want health.Severity) string {
			t.Helper()
			r := db.reprise("doctor", "-o", "json")
			require.Equal(t, want, severities(t, r)["outbox"])
			require.Equal(t, map[health.Severity]int{health.OK: 0, health.Warning: exitWarning, health.Critical: exitCritical}[want], r.code)
			return r.out
		}
		require.Contains(t, doctor(health.OK), "nothing waits for long")
		db.outbox("held", 2, true)
		require.Contains(t, doctor(health.OK), "nothing waits for long; HELD until somebody releases it: held (2)")
		orders := db.outbox("orders", 3, false)
		doctor(health.OK)

		written := func(ago time.Duration) { db.exec(`UPDATE reprise.outbox SET written_at = $1`, before(ago)) }
		written(5 * time.Minute)
		out := doctor(health.Warning)
		require.Contains(t, out, "3 messages to be sent, the first since 5m")
		require.Contains(t, out, "and no process sends")
		require.Contains(t, out, "Start the application, with its transport configured")
		written(20 * time.Minute)
		doctor(health.Critical)

		is, err := db.Relay(t.Context(), "host/1/abc", time.Minute)
		require.NoError(t, err)
		require.True(t, is)
		require.NoError(t, db.SendingFailed(t.Context(), orders[0], "connection refused"))
		out = doctor(health.Warning)
		require.Contains(t, out, "(topic orders: connection refused), sent by host/1/abc")
		db.reprise("outbox", "release", "--topic", "held", "--yes").ok()
		require.NoError(t, db.Sent(t.Context(), orders[1:]))
		require.NoError(t, db.RefusedByBroker(t.Context(), orders[0], "message too large"))
		out = doctor(health.Warning)
		require.Contains(t, out, `"1 of topic orders REFUSED: message too large"`, "what was just released does not wait for long")
		require.Contains(t, out, "reprise outbox list --state REFUSED")
		db.reprise("outbox", "drop", "--all", "--reason", "test", "--yes").ok()
		doctor(health.OK)

		o, err := db.RecordPublishing(t.Context(), store.Operation{RequestedBy: "maria", Selection: store.Filter{Topic: topic}})
		require.NoError(t, err)
		db.exec(`UPDATE reprise.operations SET requested_at = $1 WHERE id = $2`, before(time.Hour), o.ID)
		db.reprise("doctor").ok() // what nobody can go on with is no reason to warn
	})
}

// before is a time as both databases read it.
func before(d time.Duration) string {
	return time.Now().Add(-d).UTC().Format("2006-01-02T15:04:05.000Z")
}

func TestDoctorOfADatabaseThatIsDown(t *testing.T) {
	t.Parallel()
	r := on(t, "postgres://ops:secret@127.0.0.1:1/db?sslmode=disable", "doctor", "-o", "json").fails(exitCritical, "")
	require.Contains(t, r.out, `"severity": "CRIT"`)
	on(t, "", "doctor").fails(exitUsage, "no database is given")
}

func TestVersionAndCompletion(t *testing.T) {
	t.Parallel()
	require.True(t, strings.HasPrefix(on(t, "", "version").ok().out, "reprise "))
	require.Contains(t, on(t, "", "completion", "bash").ok().out, "bash completion")
	require.Contains(t, on(t, "", "__complete", "runs", "list", "--status", "").ok().out, "DISCARDED")
}

func TestMigrateStatus(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		var status struct {
			Schema   string
			Database int
			Program  int
			UpToDate bool `json:"up_to_date"`
		}
		d.reprise("migrate", "status", "-o", "json").ok().json(&status)
		require.Equal(t, "reprise", status.Schema)
		require.Equal(t, status.Program, status.Database)
		require.True(t, status.UpToDate)
		require.Contains(t, d.reprise("migrate", "up").ok().out, fmt.Sprintf("is at version %d", status.Program))
	})
}
