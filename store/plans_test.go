//go:build !race

// The race detector would only make this slow: it is the server that is looked at.
// make test runs it with the tests on the foreign server.

package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// However much is due, and whatever the planner knows of the tables, PostgreSQL
// compiles no statement of a Store and reads no table whole that grows.
//
// The server itself logs the plan of everything that it runs. The statements are
// planned for their values as well as for any, by statistics from before a
// backlog as well as by fresh ones.
var operator = store.By{Name: "operator", Reason: "to look at the plans"}

func TestPlansAtAMillionDue(t *testing.T) {
	t.Parallel()
	server := testdb.NewServer(t,
		"shared_preload_libraries=auto_explain",
		"auto_explain.log_min_duration=0",
		"auto_explain.log_nested_statements=on",
		"auto_explain.log_analyze=on",
		"auto_explain.log_timing=off",
		"auto_explain.log_buffers=on",
		"auto_explain.log_format=json",
		"jit=on",
		fmt.Sprint("jit_above_cost=", compiledAbove),
		"log_line_prefix=",
		"log_error_verbosity=default",
		"autovacuum=off", // the test says when statistics are fresh
		"shared_buffers=256MB",
		"maintenance_work_mem=256MB",
		"max_wal_size=4GB",
	)
	admin, err := server.Admin.Conn(t.Context())
	require.NoError(t, err)
	defer admin.Close()
	do := func(statement string, args ...any) {
		t.Helper()
		_, err := admin.ExecContext(t.Context(), statement, args...)
		require.NoError(t, err)
	}
	unlogged := func(f func()) {
		do(`SET auto_explain.log_min_duration = -1`)
		f()
		do(`RESET auto_explain.log_min_duration`)
	}
	st := migrated(t, testdb.Open(t, server.URL), "")
	forAny := migrated(t, testdb.Open(t, server.URL+"&plan_cache_mode=force_generic_plan"), "")

	d := &planning{T: t, admin: do, did: map[string]bool{}}
	unlogged(func() {
		fill(do, 500, 1000)
		do(`ANALYZE`)
	})
	d.onTheWay(fewRuns, st, often)
	unlogged(func() { fill(do, 50_000, 250_000) })
	for _, statistics := range []string{"old statistics", "fresh statistics"} {
		if statistics == "fresh statistics" {
			unlogged(func() { do(`ANALYZE`) })
		}
		d.onTheWay(statistics, st, often)
		d.onTheWay(statistics+", planned for any values", forAny, 1)
		d.looking(statistics, st)
		d.operating(statistics, st)
		d.pruning(statistics, st)
	}
	judge(t, server.Log())

	for name := range methods(d.st) {
		require.True(t, d.did[name] || slices.Contains(withoutSQL, name),
			"%s: let the test drive it, or add it to those that run no statement", name)
	}
}

// compiledAbove is PostgreSQL's default of jit_above_cost.
const compiledAbove = 100_000

var withoutSQL = []string{"Channel", "DB", "Database", "LeasesOnInsert", "Notifies", "Schema", "Conditions", "OutboxConditions",
	"CountOutgoing", "RunTx", "EventTx", "OperationTx"} // by OutboxCounts, Run, Event, Operation

// fill adds events of which four handlers have handled past, and none has
// handled due; and what else stands in the tables then.
func fill(do func(string, ...any), past, due int) {
	do(`INSERT INTO reprise.subscriptions (topic, handler) SELECT 'orders', unnest('{mail,stock,audit,ledger}'::text[]) ON CONFLICT DO NOTHING`)
	do(`INSERT INTO reprise.subscriptions (topic, handler) VALUES ('payments', 'pay') ON CONFLICT DO NOTHING`)
	do(`INSERT INTO reprise.operations (kind, requested_by, selection, complete, taken, total)
		SELECT 'replay', 'operator', '{"handler": "mail"}', true, $1 / 100, $1 / 100 FROM generate_series(1, 100)`, past)
	do(`INSERT INTO reprise.events (id, topic, key, payload, metadata, published_at)
		SELECT md5('past' || g || ' ' || $1)::uuid::text, 'orders', CASE WHEN g % 2 = 0 THEN 'customer-' || g % 1000 ELSE '' END,
		       json_build_object('id', g, 'customer', g % 1000), '{"trace": "0123456789"}', now() - (30 * (2 - g / $1::float8)) * interval '1 day'
		FROM generate_series(1, $1::int) g`, past)
	do(`INSERT INTO reprise.handler_runs (event_id, topic, handler, key, status, attempt, tries, instance, started_at, finished_at, published_at,
			error_kind, error, fingerprint, failed_at, discarded_at, replay_id)
		SELECT e.id, e.topic, s.handler, e.key, status, 1, 1, 'old', e.published_at, e.published_at, e.published_at,
		       CASE WHEN status <> 'SUCCESS' THEN 'error' END,
		       CASE WHEN status <> 'SUCCESS' THEN 'no connection to the server number ' || n % 20 END,
		       CASE WHEN status <> 'SUCCESS' THEN left(md5((n % 20)::text), 16) END,
		       CASE WHEN status = 'FAILED' THEN e.published_at END,
		       CASE WHEN status = 'DISCARDED' THEN e.published_at END,
		       CASE WHEN s.handler = 'stock' THEN n % 100 + 1 END
		FROM (SELECT *, row_number() OVER (ORDER BY published_at) AS n FROM reprise.events WHERE published_at < now() - interval '29 days') e,
		     (VALUES ('mail'), ('stock'), ('audit'), ('ledger')) s (handler),
		     LATERAL (SELECT CASE WHEN s.handler = 'mail' THEN 'FAILED' WHEN s.handler = 'ledger' AND n % 5 = 0 THEN 'DISCARDED' ELSE 'SUCCESS' END AS status) o
		ORDER BY n
		ON CONFLICT DO NOTHING`)
	do(`INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, started_at)
		SELECT r.id, a, 0, 'error', r.error, r.started_at FROM reprise.handler_runs r, generate_series(1, 3) a WHERE r.failed_at IS NOT NULL ORDER BY r.id, a`)
	do(`INSERT INTO reprise.operation_runs (operation_id, place, run_id, status, attempt, cycle, tries)
		SELECT replay_id, row_number() OVER (PARTITION BY replay_id ORDER BY id), id, 'FAILED', 1, 0, 1
		FROM reprise.handler_runs WHERE replay_id IS NOT NULL
		ON CONFLICT DO NOTHING`)
	do(`WITH published AS (
			INSERT INTO reprise.events (id, topic, key, payload, metadata, published_at)
			SELECT $1 || '-' || lpad(g::text, 12, '0'), 'orders', CASE WHEN g % 2 = 0 THEN 'customer-' || g % 1000 ELSE '' END,
			       json_build_object('id', g, 'customer', g % 1000), '{"trace": "0123456789"}', now() - (1 - g / $1::float8) * interval '1 day'
			FROM generate_series(1, $1::int) g
			RETURNING id, topic, key, published_at
		)
		INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at, published_at)
		SELECT p.id, p.topic, s.handler, p.key, p.published_at, p.published_at
		FROM published p JOIN reprise.subscriptions s ON s.topic = p.topic`, due)
	do(`INSERT INTO reprise.outbox (event_id, topic, key, payload, state, written_at, sent_at)
		SELECT md5('outbox' || g || ' ' || $1)::uuid::text, 'shipped-' || g % 3, 'customer-' || g % 1000, '{"id": 1}', state, at, CASE WHEN state = 'SENT' THEN at END
		FROM generate_series(1, $1::int) g,
		     LATERAL (SELECT CASE WHEN g % 100 = 0 THEN 'HELD' WHEN g % 100 = 1 THEN 'REFUSED' WHEN g > $1 / 2 THEN 'PENDING' ELSE 'SENT' END AS state,
		                     now() - (30 * (2 - g / $1::float8)) * interval '1 day' AS at) o`, due)
	do(`INSERT INTO reprise.instances (id, host, pid, lowest_run) SELECT 'other-' || g, 'host', g, 1000000000 FROM generate_series(1, 20) g ON CONFLICT DO NOTHING`)
}

// planning makes a Store run its statements.
type planning struct {
	*testing.T
	admin func(statement string, args ...any)
	did   map[string]bool // methods

	pass  string
	often int // how often a step on an event's way is done
	st    *store.Store
	id    string // of an instance
	n     int    // events so far
}

// often makes a server that has prepared a statement run it by the plan for any
// values: it may do so from the sixth time on.
const often = 7

func (d *planning) begin(pass string, st *store.Store) {
	d.pass, d.st, d.id = pass, st, "driver of "+pass
}

// fewRuns is the pass that has statements prepared while the tables are small.
const fewRuns = "few runs"

// mark begins what the server's log is told of a step.
const mark = "SELECT 'step: "

// step runs methods, whose names it begins with, and has the log say so.
func (d *planning) step(methods string, f func(ctx context.Context)) {
	d.Helper()
	d.admin(mark + methods + "; " + d.pass + "'")
	for _, method := range strings.Fields(methods) {
		d.did[method] = true
	}
	f(d.Context())
}

// wayStep is step for what is done for each event, or by every process by and by.
func (d *planning) wayStep(methods string, f func(ctx context.Context)) {
	d.Helper()
	d.step(methods, func(ctx context.Context) {
		for range d.often {
			f(ctx)
		}
	})
}

func (d *planning) events(n int, topic string) []store.Event {
	events := make([]store.Event, n)
	for i := range events {
		d.n++
		events[i] = store.Event{ID: fmt.Sprintf("%s %d", d.pass, d.n), Topic: topic, Key: "customer-7", Payload: []byte(`{"id": 1}`)}
		if i%3 == 1 {
			events[i].Payload = []byte("no JSON")
		}
	}
	return events
}

func from(source string, events []store.Event) []store.Event {
	for i := range events {
		events[i].Source = source
	}
	return events
}

func (d *planning) onTheWay(pass string, st *store.Store, often int) {
	d.begin(pass, st)
	d.often = often
	d.processes()
	d.publishing()
	d.receiving()
	d.handling()
	d.sending()
}

func (d *planning) processes() {
	st := d.st
	d.wayStep("Register Heartbeat Held Survey SubscriptionKeys", func(ctx context.Context) {
		require.NoError(d, queue.Of(st).Register(ctx, store.Instance{ID: d.id, Handlers: []string{"mail"}}))
		_, err := queue.Of(st).Heartbeat(ctx, nil, d.id, queue.HeartbeatReport{Holding: &queue.Holding{Runs: []int64{1}, Recent: 1 << 40}})
		require.NoError(d, err)
		_, err = queue.Of(st).Held(ctx, d.id)
		require.NoError(d, err)
		_, err = queue.Of(st).Survey(ctx)
		require.NoError(d, err)
		_, err = st.SubscriptionKeys(ctx)
		require.NoError(d, err)
	})
	d.step("Recover Deregister", func(ctx context.Context) {
		for _, id := range []string{"dead", "leaving"} {
			require.NoError(d, queue.Of(st).Register(ctx, store.Instance{ID: id}))
			claimed, err := queue.Of(st).Claim(ctx, queue.Claimant{Instance: id}, []queue.Want{{Topic: "orders", Handler: "mail", N: 10}})
			require.NoError(d, err)
			require.Len(d, claimed, 10)
		}
		require.NoError(d, queue.Of(st).Deregister(ctx, "leaving"))
		d.admin(`UPDATE reprise.instances SET heartbeat_at = now() - interval '1 hour' WHERE id = 'dead'`)
		d.admin(`UPDATE reprise.instances SET heartbeat_at = now() WHERE id LIKE 'other-%' OR id LIKE 'driver%'`)
		d.admin(`UPDATE reprise.instances SET heartbeat_at = now(), started_at = now() - interval '1 hour', steady_since = NULL WHERE id = $1`, d.id)
		dead, err := queue.Of(st).Recover(ctx, d.id)
		require.NoError(d, err)
		require.Equal(d, []string{"dead"}, dead)
	})
	d.step("Subscribe SubscribeTx SubscribeFromBeginning RequestPast OpenBackfills Settle Unsubscribe", func(ctx context.Context) {
		for _, handler := range []string{"new", "old"} {
			sub := store.Subscription{Topic: "orders", Handler: handler + " in " + d.pass}
			require.NoError(d, operate.On(st).SubscribeFromBeginning(ctx, sub, ""))
			open, err := st.OpenBackfills(ctx, sub)
			require.NoError(d, err)
			require.Len(d, open, 1)
			_, _, err = queue.Of(st).Settle(ctx, sub, "")
			require.NoError(d, err)
			require.NoError(d, operate.On(st).Unsubscribe(ctx, sub, operator))
		}
	})
	d.step("InsertLarge", func(ctx context.Context) {
		tx, over, err := st.Database().Begin(ctx, nil)
		require.NoError(d, err)
		defer over()
		require.False(d, st.Database().Aborted(ctx, tx))
		in, err := queue.Of(st).InsertLarge(ctx, tx, d.events(100, "orders"), func(events []store.Event) [][]store.Event {
			half := len(events) / 2
			return [][]store.Event{events[:half], events[half:]}
		})
		require.NoError(d, err)
		require.NotZero(d, in.Due)
		require.NoError(d, tx.Rollback())
	})
	d.step("Unheard", func(ctx context.Context) {
		_, err := st.Unheard(ctx)
		require.NoError(d, err)
	})
	d.step("Sequences", func(ctx context.Context) {
		_, err := st.Sequences(ctx)
		require.NoError(d, err)
	})
	d.step("DeclareTopics Topics", func(ctx context.Context) {
		require.NoError(d, st.DeclareTopics(ctx, []store.Topic{{Topic: "orders"}}))
		_, err := st.Topics(ctx)
		require.NoError(d, err)
	})
}

func (d *planning) publishing() {
	lease := queue.LeaseOnInsert{Instance: d.id, Wants: []queue.Want{{Topic: "orders", Handler: "mail", N: 5}, {Topic: "orders", Handler: "stock", N: 50}}}
	var leased []queue.Outcome
	for _, n := range []int{1, 2, 100} {
		for _, lease := range []queue.LeaseOnInsert{{}, lease} {
			d.wayStep("Insert InsertNew KnownMetadata", func(ctx context.Context) {
				events := d.events(n, "orders")
				in, err := queue.Of(d.st).InsertNew(ctx, d.st.DB(), events, lease)
				require.NoError(d, err)
				require.Len(d, in.IDs, n)
				for _, run := range in.Leased {
					leased = append(leased, queue.Outcome{Status: store.Success, Lease: queue.Lease{RunID: run.RunID, Instance: d.id, Attempt: 1}})
				}
				in, err = queue.Of(d.st).Insert(ctx, d.st.DB(), events, lease)
				require.NoError(d, err)
				require.Empty(d, in.IDs)
				known, err := queue.Of(d.st).KnownMetadata(ctx, d.st.DB(), eventIDs(events))
				require.NoError(d, err)
				require.Len(d, known, n)
			})
		}
	}
	d.wayStep("End Notify NotifyOutbox", func(ctx context.Context) {
		lost, err := queue.Of(d.st).End(ctx, leased)
		require.NoError(d, err)
		require.Empty(d, lost)
		require.NoError(d, d.st.Database().Notify(ctx, d.st.DB(), ""))
		require.NoError(d, d.st.Database().NotifyOutbox(ctx, d.st.DB(), ""))
	})
}

func eventIDs(events []store.Event) (ids []store.EventID) {
	for i := range events {
		ids = append(ids, events[i].EventID())
	}
	return ids
}

func (d *planning) receiving() {
	for _, lease := range []queue.LeaseOnInsert{{}, {Instance: d.id, Wants: []queue.Want{{Topic: "payments", Handler: "pay", N: 5}}}} {
		for _, n := range []int{1, 100} {
			d.wayStep("Receive ReceiveNew", func(ctx context.Context) {
				events := from("kafka", d.events(n, "payments"))
				_, err := queue.Of(d.st).ReceiveNew(ctx, "pay", events, lease)
				require.NoError(d, err)
				in, err := queue.Of(d.st).Receive(ctx, "pay", events, lease)
				require.NoError(d, err)
				require.Equal(d, n, in.Known)
				for i := range events {
					events[i].Metadata = map[string]string{"retries": "1"}
				}
				in, err = queue.Of(d.st).Receive(ctx, "pay", events, lease)
				require.NoError(d, err)
				require.Len(d, in.Other, n)
			})
		}
	}
	d.wayStep("Record RecordAgain", func(ctx context.Context) {
		e := from("kafka", d.events(1, "payments"))[0]
		for range 2 {
			run, err := queue.Of(d.st).Record(ctx, e, "pay", d.id, true)
			require.NoError(d, err)
			_, err = queue.Of(d.st).RecordAgain(ctx, run, d.id)
			require.NoError(d, err)
			e.Metadata = map[string]string{"retries": "1"}
		}
	})
}

func (d *planning) claim(ctx context.Context, n int) []*queue.Claimed {
	d.Helper()
	pulse, err := queue.Of(d.st).Heartbeat(ctx, nil, d.id, queue.HeartbeatReport{})
	require.NoError(d, err)
	claimed, err := queue.Of(d.st).Claim(ctx, queue.Claimant{Instance: d.id, Claims: pulse.Claims, Held: []int64{1, 2, 3}}, []queue.Want{{Topic: "orders", Handler: "mail", N: n}, {Topic: "orders", Handler: "stock", N: n}, {Topic: "payments", Handler: "pay", N: n}, {Topic: "nothing", Handler: "nobody", N: n}})
	require.NoError(d, err)
	require.NotEmpty(d, claimed)
	return claimed
}

func (d *planning) handling() {
	failure := store.NewFailure("mail", store.KindPanic, "no connection to the server")
	d.wayStep("Claim End EndUnlocked", func(ctx context.Context) {
		for _, n := range []int{1, 5, 50} {
			var outcomes []queue.Outcome
			for i, c := range d.claim(ctx, n) {
				o := queue.Outcome{Lease: queue.LeaseOf(c.Run), Status: store.Success}
				switch i % 4 {
				case 1:
					o.Status, o.Failure, o.Delay = store.Pending, failure, time.Second
				case 2:
					o.Status, o.Failure, o.Callback = store.Failed, failure, failure
				}
				outcomes = append(outcomes, o)
			}
			outcomes = append(outcomes, queue.Outcome{Lease: queue.Lease{RunID: 1, Instance: "nobody", Attempt: 1}, Status: store.Success})
			lost, err := queue.Of(d.st).End(ctx, outcomes[:len(outcomes)/2])
			require.NoError(d, err)
			require.Empty(d, lost)
			lost, _, err = queue.Of(d.st).EndUnlocked(ctx, outcomes[len(outcomes)/2:])
			require.NoError(d, err)
			require.Len(d, lost, 1)
		}
	})
	d.wayStep("Succeed", func(ctx context.Context) {
		tx, err := d.st.DB().BeginTxx(ctx, nil)
		require.NoError(d, err)
		for _, c := range d.claim(ctx, 1) {
			require.NoError(d, queue.Of(d.st).Succeed(ctx, tx, queue.LeaseOf(c.Run)))
		}
		require.NoError(d, tx.Commit())
	})
	d.wayStep("Mark SucceedMarked Ended Over", func(ctx context.Context) {
		tx, err := d.st.DB().BeginTxx(ctx, nil)
		require.NoError(d, err)
		mark, err := d.st.Database().Mark(ctx, tx)
		require.NoError(d, err)
		for _, c := range d.claim(ctx, 1) {
			require.NoError(d, queue.Of(d.st).SucceedMarked(ctx, tx, mark, queue.LeaseOf(c.Run)))
		}
		require.NoError(d, d.st.Database().Ended(ctx, tx, mark))
		require.NoError(d, d.st.Database().Over(ctx, tx))
		require.NoError(d, tx.Commit())
	})
}

func (d *planning) sending() {
	st := d.st
	d.wayStep("Relay WaitingTopics Waiting Backlog NextOutgoing Sent SendingFailed RefusedByBroker RelayedBy LastRelay ResignRelay", func(ctx context.Context) {
		_, err := queue.Of(st).Relay(ctx, d.id, time.Minute)
		require.NoError(d, err)
		topics, err := queue.Of(st).WaitingTopics(ctx)
		require.NoError(d, err)
		require.Len(d, topics, 3)
		for _, topic := range []string{"shipped-1", "nothing"} {
			_, err = queue.Of(st).Waiting(ctx, topic)
			require.NoError(d, err)
			_, _, err = queue.Of(st).Backlog(ctx, topic, 1000)
			require.NoError(d, err)
			_, err = queue.Of(st).NextOutgoing(ctx, topic, 1000, 1<<20)
			require.NoError(d, err)
		}
		next, err := queue.Of(st).NextOutgoing(ctx, "shipped-1", 7, 1<<20)
		require.NoError(d, err)
		require.Len(d, next, 7)
		ids := make([]int64, len(next))
		for i, o := range next {
			ids[i] = o.ID
		}
		require.NoError(d, queue.Of(st).SendingFailed(ctx, ids[0], "away"))
		require.NoError(d, queue.Of(st).RefusedByBroker(ctx, ids[1], "too large"))
		require.NoError(d, queue.Of(st).Sent(ctx, ids[2:3]))
		require.NoError(d, queue.Of(st).Sent(ctx, ids[3:]))
		_, err = st.RelayedBy(ctx)
		require.NoError(d, err)
		require.NoError(d, queue.Of(st).ResignRelay(ctx, d.id))
	})
	for _, n := range []int{1, 100} {
		d.wayStep("WriteOutbox KnownOutgoingMetadata", func(ctx context.Context) {
			events := d.events(n, "shipped-1")
			for range 2 {
				_, err := queue.Of(st).WriteOutbox(ctx, st.DB(), events, func(string) bool { return false })
				require.NoError(d, err)
			}
			known, err := queue.Of(st).KnownOutgoingMetadata(ctx, st.DB(), eventIDs(events))
			require.NoError(d, err)
			require.Len(d, known, n)
		})
	}
}

func (d *planning) filters() []store.Filter {
	day := time.Now().AddDate(0, 0, -1)
	run := func(status store.Status) store.Run {
		runs, err := d.st.Runs(d.Context(), store.Filter{Status: status, Limit: 1})
		require.NoError(d, err)
		require.Len(d, runs, 1)
		return runs[0]
	}
	failed := run(store.Failed)
	filters := []store.Filter{
		{}, {Handler: "mail"}, {Handler: "nobody"}, {Topic: "orders"}, {Topic: "nothing"}, {EventID: failed.EventID}, {EventID: "nothing"},
		{Key: "customer-8"}, {Key: "nobody"}, {Kind: store.KindError}, {Kind: store.KindTimeout}, {Text: "number 7"}, {Text: "nothing"},
		{Group: failed.Fingerprint}, {Group: "0123456789abcdef"}, {Replay: 7}, {Replay: 1 << 40}, {Since: day}, {Until: day}, {Since: day, Until: day.Add(time.Minute)},
		{Payload: []store.Condition{{Path: []string{"customer"}, Op: store.Equal, Value: "7"}}}, {Payload: []store.Condition{{Path: []string{"nothing"}, Op: store.Equal, Value: "7"}}},
		{IDs: []int64{failed.ID, 2, 3}}, {IDs: []int64{}}, {Key: "customer-8", Handler: "mail", Since: day}, {Replay: 7, Status: store.Failed}, {Key: "customer-8", Status: store.Failed},
	}
	for _, status := range store.Statuses() {
		filters = append(filters, store.Filter{Status: status}, store.Filter{Status: status, Handler: "mail"}, store.Filter{Status: status, Handler: "nobody"},
			store.Filter{Status: status, Topic: "nothing"}, store.Filter{Status: status, Until: day})
	}
	return filters
}

func (d *planning) looking(pass string, st *store.Store) {
	d.begin(pass, st)
	d.step("Recount CountFailures", func(ctx context.Context) {
		require.NoError(d, operate.On(st).Recount(ctx))
		for more := true; more; {
			var err error
			more, err = operate.On(st).CountFailures(ctx)
			require.NoError(d, err)
		}
	})
	d.step("Miscounted", func(ctx context.Context) {
		m, err := st.Miscounted(ctx)
		require.NoError(d, err)
		require.False(d, m.Is(), "%+v", m)
	})
	for _, f := range d.filters() {
		d.step(fmt.Sprintf("Page Count %s", described(f)), func(ctx context.Context) {
			page, err := st.Page(ctx, f)
			require.NoError(d, err)
			if page.Next != 0 {
				f.Before = page.Next
				_, err = st.Page(ctx, f)
				require.NoError(d, err)
			}
			_, err = st.Count(ctx, f)
			require.NoError(d, err)
		})
		if f.Status == "" && (f.Empty() || f.Handler+f.Text+f.Group != "" || f.Payload != nil) {
			d.step(fmt.Sprintf("Groups Grouping %s", described(f)), func(ctx context.Context) {
				_, err := st.Groups(ctx, f)
				require.NoError(d, err)
			})
		}
	}
	d.step("Runs Run Await Attempts LastAttempts Event EventHead EventHeads EventPayload EventRuns OperationsOf", func(ctx context.Context) {
		runs, err := st.Runs(ctx, store.Filter{Status: store.Failed})
		require.NoError(d, err)
		run := runs[0]
		_, err = st.Run(ctx, run.ID)
		require.NoError(d, err)
		_, err = st.Await(ctx, run.ID)
		require.NoError(d, err)
		_, err = st.Attempts(ctx, run.ID)
		require.NoError(d, err)
		_, err = st.Event(ctx, run.Topic, run.EventID)
		require.NoError(d, err)
		_, err = st.EventRuns(ctx, run.Topic, run.EventID)
		require.NoError(d, err)
		_, err = st.EventHeads(ctx, run.EventID)
		require.NoError(d, err)
		_, err = st.EventHead(ctx, run.Topic, run.EventID)
		require.NoError(d, err)
		_, err = st.EventPayload(ctx, run.Topic, run.EventID, 10)
		require.NoError(d, err)
		_, _, err = st.LastAttempts(ctx, run.ID, 2, true)
		require.NoError(d, err)
		_, err = st.OperationsOf(ctx, run.ID)
		require.NoError(d, err)
	})
	day := time.Now().AddDate(0, 0, -1)
	for _, f := range []store.EventFilter{{}, {Topic: "orders"}, {Topic: "nothing"}, {Key: "customer-7"}, {Key: "nobody"}, {Since: day}, {Until: day}, {Since: day, Until: day.Add(time.Minute)}} {
		d.step(fmt.Sprintf("Events %s", described(f)), func(ctx context.Context) {
			_, next, err := st.Events(ctx, f)
			require.NoError(d, err)
			if next != nil {
				f.Before = next
				_, _, err = st.Events(ctx, f)
				require.NoError(d, err)
			}
		})
	}
	outbox := []store.OutboxFilter{{}, {Unsent: true}, {Topic: "shipped-1"}, {Topic: "nothing"}, {EventID: "nothing"}, {Key: "customer-7"}, {Key: "nobody"}, {Since: day}, {Until: day}, {IDs: []int64{1, 2}}, {Before: 1000}}
	for _, state := range store.OutgoingStates() {
		outbox = append(outbox, store.OutboxFilter{State: state}, store.OutboxFilter{State: state, Topic: "shipped-1"}, store.OutboxFilter{State: state, Topic: "nothing"})
	}
	for _, f := range outbox {
		d.step(fmt.Sprintf("Outbox %s", described(f)), func(ctx context.Context) {
			_, err := st.Outbox(ctx, f)
			require.NoError(d, err)
		})
	}
	d.step("Outgoing OutgoingPayload", func(ctx context.Context) {
		waits, err := st.Outbox(ctx, store.OutboxFilter{Limit: 1})
		require.NoError(d, err)
		_, err = st.Outgoing(ctx, waits[0].ID)
		require.NoError(d, err)
		_, err = st.OutgoingPayload(ctx, waits[0].ID, 10)
		require.NoError(d, err)
	})
	d.step("OutboxCounts", func(ctx context.Context) {
		_, err := st.OutboxCounts(ctx)
		require.NoError(d, err)
	})
	d.step("Subscriptions Instances Clock Sizes", func(ctx context.Context) {
		_, err := st.Subscriptions(ctx)
		require.NoError(d, err)
		_, err = st.Clock(ctx)
		require.NoError(d, err)
		_, err = st.Sizes(ctx)
		require.NoError(d, err)
	})
	d.step("Contradictory", func(ctx context.Context) {
		_, err := st.Contradictory(ctx, 100_000)
		require.NoError(d, err)
	})
}

func described(f any) string {
	text, _ := json.Marshal(f)
	return strings.ReplaceAll(string(text), "'", "")
}

func (d *planning) operating(pass string, st *store.Store) {
	d.begin(pass, st)
	const by = "operator"
	takeTwice := func(ctx context.Context, id int64) {
		d.Helper()
		for range 2 {
			_, err := operate.On(st).Take(ctx, id)
			require.NoError(d, err)
		}
	}
	request := func(o store.Operation) store.Operation {
		d.Helper()
		o.RequestedBy = by
		d.step(fmt.Sprintf("Preview %s", described(o.Selection)), func(ctx context.Context) {
			_, err := operate.On(st).Preview(ctx, o)
			require.NoError(d, err)
		})
		d.step(fmt.Sprintf("Request %s", described(o.Selection)), func(ctx context.Context) {
			var err error
			o, err = operate.On(st).Request(ctx, o)
			require.NoError(d, err)
		})
		return o
	}
	customer := store.Condition{Path: []string{"customer"}, Op: store.Equal, Value: "8"}
	for _, f := range []store.Filter{{Handler: "mail"}, {Text: "number 7"}, {Key: "customer-8"}, {Payload: []store.Condition{customer}}} {
		o := request(store.Operation{Kind: store.Replaying, Selection: f, Rate: 1000})
		d.step("Take Pause Release Progress Cancel "+described(f), func(ctx context.Context) {
			takeTwice(ctx, o.ID)
			_, err := operate.On(st).Pause(ctx, o.ID, operator)
			require.NoError(d, err)
			_, err = operate.On(st).Release(ctx, o.ID, operator)
			require.NoError(d, err)
			_, err = st.Progress(ctx, o.ID)
			require.NoError(d, err)
			_, err = operate.On(st).Cancel(ctx, o.ID, operator)
			require.NoError(d, err)
		})
	}
	succeeded := request(store.Operation{Kind: store.Replaying, Selection: store.Filter{Status: store.Success, Replay: 7}, EvenSuccessful: true})
	d.step("Take Cancel of what succeeded", func(ctx context.Context) {
		takeTwice(ctx, succeeded.ID)
		_, err := operate.On(st).Cancel(ctx, succeeded.ID, operator)
		require.NoError(d, err)
	})
	for _, f := range []store.Filter{{Handler: "mail"}, {Status: store.Pending, Handler: "ledger"}} {
		o := request(store.Operation{Kind: store.Discarding, Selection: f})
		d.step("Take Undo "+described(f), func(ctx context.Context) {
			takeTwice(ctx, o.ID)
			_, _, err := operate.On(st).Undo(ctx, o.ID, operator)
			require.NoError(d, err)
		})
	}
	var backfill store.Operation
	d.step("RequestBackfill PreviewBackfill", func(ctx context.Context) {
		require.NoError(d, queue.Of(st).Subscribe(ctx, store.Subscription{Topic: "orders", Handler: "late"}, ""))
		var err error
		backfill, err = operate.On(st).RequestBackfill(ctx, store.Operation{RequestedBy: by, Rate: 1000, Selection: store.Filter{Handler: "late"}})
		require.NoError(d, err)
	})
	d.step("Take Pause Release Cancel of a backfill", func(ctx context.Context) {
		takeTwice(ctx, backfill.ID)
		_, err := operate.On(st).Pause(ctx, backfill.ID, operator)
		require.NoError(d, err)
		_, err = operate.On(st).Release(ctx, backfill.ID, operator)
		require.NoError(d, err)
		_, err = operate.On(st).Cancel(ctx, backfill.ID, operator)
		require.NoError(d, err)
		require.NoError(d, operate.On(st).Unsubscribe(ctx, store.Subscription{Topic: "orders", Handler: "late"}, operator))
	})
	d.step("Edit", func(ctx context.Context) {
		runs, err := st.Runs(ctx, store.Filter{Status: store.Failed, Limit: 1})
		require.NoError(d, err)
		_, _, err = operate.On(st).Edit(ctx, runs[0].ID, store.Correction{Payload: []byte(d.pass)}, by, "")
		require.NoError(d, err)
	})
	d.step("Operation Operations OpenOperations", func(ctx context.Context) {
		_, err := st.OpenOperations(ctx)
		require.NoError(d, err)
		operations, err := st.Operations(ctx, 0, 0)
		require.NoError(d, err)
		_, err = st.Operation(ctx, operations[0].ID)
		require.NoError(d, err)
	})
	d.step("Actions ActionsOn", func(ctx context.Context) {
		actions, err := st.Actions(ctx, 0, 0)
		require.NoError(d, err)
		_, err = st.ActionsOn(ctx, actions[0].Operation)
		require.NoError(d, err)
	})
	d.step("RecordPublishing Published", func(ctx context.Context) {
		o, err := operate.On(st).RecordPublishing(ctx, store.Operation{RequestedBy: by, Selection: store.Filter{Topic: "orders"}})
		require.NoError(d, err)
		require.NoError(d, operate.On(st).Published(ctx, o.ID, 1, true))
	})
	for _, kind := range []store.OperationKind{store.Releasing, store.Dropping, store.Sending} {
		d.step("PreviewOutbox ChangeOutbox "+string(kind), func(ctx context.Context) {
			o := store.Operation{Kind: kind, RequestedBy: by, Outbox: store.OutboxFilter{Key: "customer-7"}}
			_, err := operate.On(st).PreviewOutbox(ctx, o)
			require.NoError(d, err)
			_, err = operate.On(st).ChangeOutbox(ctx, o)
			require.NoError(d, err)
		})
	}
}

func (d *planning) pruning(pass string, st *store.Store) {
	d.begin(pass, st)
	d.step("PruneBatch", func(ctx context.Context) {
		var mark *store.EventMark
		for i := range 2 {
			var err error
			_, mark, err = st.PruneBatch(ctx, store.Prune{Before: time.Now().AddDate(0, 0, -10), Failed: i == 1, By: operator}, mark)
			require.NoError(d, err)
			if mark == nil {
				break
			}
		}
	})
	d.step("Prune that only counts", func(ctx context.Context) {
		_, err := st.Prune(ctx, store.Prune{Before: time.Now().AddDate(0, 0, -59), DryRun: true}, nil)
		require.NoError(d, err)
	})
	d.step("Prune", func(ctx context.Context) {
		ctx, enough := context.WithCancel(ctx)
		defer enough()
		batches := 0
		_, err := st.Prune(ctx, store.Prune{Before: time.Now().AddDate(0, 0, -59), By: operator, Daily: true}, func(store.Pruned) { batches++ })
		require.NoError(d, err)
	})
}

// planned is what the server logs of a statement.
type planned struct {
	Query string `json:"Query Text"`
	Plan  node
	JIT   json.RawMessage // when it is compiled
}

type node struct {
	Type    string  `json:"Node Type"`
	Table   string  `json:"Relation Name"`
	Index   string  `json:"Index Name"`
	Cond    string  `json:"Index Cond"`
	Cost    float64 `json:"Total Cost"`
	Loops   float64 `json:"Actual Loops"`
	Rows    float64 `json:"Actual Rows"`                 // of a loop, as those that follow
	Removed float64 `json:"Rows Removed by Filter"`      // read in vain
	Joined  float64 `json:"Rows Removed by Join Filter"` // joined in vain
	Hit     float64 `json:"Shared Hit Blocks"`           // of all loops
	Read    float64 `json:"Shared Read Blocks"`
	Plans   []node
}

// growing are the tables that grow with the events.
var growing = []string{"handler_runs", "events", "run_attempts", "operation_runs", "outbox"}

// A statement looks at 40,000 runs at most, and by index at as many in vain.
const (
	inVain = 60_000  // rows
	again  = 300_000 // rows that a join reads, or compares
	wasted = 10_000  // pages that hold none of the rows
)

func (n *node) faults() (faults []string) {
	scans := strings.HasSuffix(n.Type, "Scan") && slices.Contains(growing, n.Table)
	found, others := n.Rows*n.Loops, n.Removed*n.Loops
	pages := n.Hit + n.Read
	switch {
	case scans && n.Type == "Seq Scan":
		faults = append(faults, fmt.Sprintf("a Seq Scan of %s", n.Table))
	case scans && others > inVain:
		faults = append(faults, fmt.Sprintf("%.0f rows of %s for %.0f", others, n.Table, found))
	case scans && pages > wasted && pages > 5*(found+others+n.Loops):
		faults = append(faults, fmt.Sprintf("%.0f pages of %s for %.0f rows", pages, n.Table, found))
	case scans && n.Loops > 100 && found > again:
		faults = append(faults, fmt.Sprintf("%.0f rows of %s in %.0f turns", found, n.Table, n.Loops))
	case n.Joined*n.Loops > again:
		faults = append(faults, fmt.Sprintf("a %s that compares %.0f times", n.Type, n.Joined*n.Loops))
	}
	for i := range n.Plans {
		faults = append(faults, n.Plans[i].faults()...)
	}
	return faults
}

func (n *node) outline(indent string) string {
	text := fmt.Sprintf("%s%s %s %s (cost %.0f, %.0f times %.0f rows, %.0f pages) %s\n", indent, n.Type, n.Table, n.Index, n.Cost, n.Loops, n.Rows, n.Hit+n.Read, n.Cond)
	for i := range n.Plans {
		text += n.Plans[i].outline(indent + "  ")
	}
	return text
}

// judge reads the plans in a server's log.
func judge(t *testing.T, log string) {
	t.Helper()
	step, statements := "", 0
	seen := map[string]bool{}
	for lines := strings.Split(log, "\n"); len(lines) > 0; {
		line := lines[0]
		lines = lines[1:]
		if !strings.HasSuffix(line, "  plan:") {
			continue
		}
		text := ""
		for ; len(lines) > 0 && strings.HasPrefix(lines[0], "\t"); lines = lines[1:] {
			text += lines[0][1:] + "\n"
		}
		var p planned
		require.NoError(t, json.Unmarshal([]byte(text), &p), text)
		if name, marked := strings.CutPrefix(p.Query, mark); marked {
			step = strings.TrimSuffix(name, "'")
			continue
		}
		if step == "" || strings.HasSuffix(step, fewRuns) { // it may read a small table whole
			continue
		}
		statements++
		method, _, _ := strings.Cut(step, " ")
		if _, may := readsWhole[method]; may {
			continue
		}
		faults := p.Plan.faults()
		if len(p.JIT) > 0 || p.Plan.Cost >= compiledAbove {
			faults = append(faults, fmt.Sprintf("a cost of %.0f, for which it is compiled each time", p.Plan.Cost))
		}
		if len(faults) > 0 && !seen[step+p.Query] {
			seen[step+p.Query] = true
			t.Errorf("%s:\n%s\n%s\n%s", step, strings.Join(faults, "\n"), p.Query, p.Plan.outline(""))
		}
	}
	require.Greater(t, statements, 1000, "the server does not log plans as the test reads them")
}

// readsWhole are the first methods of steps that may read a table whole, or be
// compiled.
var readsWhole = map[string]string{
	"Preview":         "counts all that an operator selects, to a million runs",
	"Request":         "counts all that an operator selects, to a million runs",
	"RequestBackfill": "counts all events that an operator selects, to a million",
	"Outbox":          "looks for a topic or a key in all that retention leaves in the outbox",
	"Sequences":       "looks once, for doctor, at what refers to a row",
	"OutboxCounts":    "counts all that is unsent",
	"PreviewOutbox":   "counts all that an operator selects",
}
