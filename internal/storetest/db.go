package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// What most tests are about.
const topic = "orders"

var ctx = context.Background()

// db is a store, its queue, an operator and, in lower case, what must succeed on them.
type db struct {
	*store.Store
	*queue.Queue
	*operate.Operator
	t    *testing.T
	kind dialect.Kind
}

func wrap(t *testing.T, st *store.Store) db {
	t.Helper()
	kind, err := dialect.Detect(ctx, st.DB().DB)
	require.NoError(t, err)
	d := db{st, queue.Of(st), operate.On(st), t, kind}
	if kind == dialect.Postgres {
		_, err := d.DB().ExecContext(ctx, kind.Qualify(st.Schema(), invariants))
		require.NoError(t, err)
	}
	t.Cleanup(d.requireNoOrphans)
	return d
}

// requireNoOrphans checks that no row stands there for a run that does not.
func (d db) requireNoOrphans() {
	for _, table := range []string{"run_attempts", "operation_runs"} {
		var orphans int
		require.NoError(d.t, d.DB().GetContext(ctx, &orphans, d.kind.Qualify(d.Schema(), `
			SELECT count(*) FROM reprise.`+table+` o WHERE NOT EXISTS (SELECT 1 FROM reprise.handler_runs r WHERE r.id = o.run_id)`)))
		require.Zero(d.t, orphans, "rows of %s without their run", table)
	}
}

// invariants are what holds of every row, besides what PostgreSQL's tables see to
// themselves; those of SQLite see to all of it.
const invariants = `
	ALTER TABLE reprise.handler_runs
		ADD CONSTRAINT finished CHECK ((status = 'PENDING') = (finished_at IS NULL)),
		ADD CONSTRAINT due CHECK (due_at IS NULL OR (status = 'PENDING' AND instance IS NULL)),
		ADD CONSTRAINT held CHECK (status <> 'PENDING' OR due_at IS NOT NULL OR instance IS NOT NULL),
		ADD CONSTRAINT cause CHECK (status <> 'FAILED' OR error_kind IS NOT NULL),
		ADD CONSTRAINT failed CHECK (failed_at IS NOT DISTINCT FROM CASE WHEN status = 'FAILED' THEN finished_at END),
		ADD CONSTRAINT discarded CHECK (discarded_at IS NOT DISTINCT FROM CASE WHEN status = 'DISCARDED' THEN finished_at END);
	ALTER TABLE reprise.events ADD CONSTRAINT one_payload CHECK (num_nonnulls(payload, payload_bytes) = 1)`

// event is one on topic.
func event(id string) store.Event {
	return store.Event{ID: id, Topic: topic, Key: "key of " + id, Payload: []byte(`{"order": "` + id + `"}`)}
}

func events(ids ...string) []store.Event {
	all := make([]store.Event, len(ids))
	for i, id := range ids {
		all[i] = event(id)
	}
	return all
}

// subscribe subscribes handlers to topic.
func (d db) subscribe(handlers ...string) {
	d.t.Helper()
	for _, h := range handlers {
		require.NoError(d.t, d.Subscribe(ctx, store.Subscription{Topic: topic, Handler: h}, ""))
	}
}

// tryInsert runs Insert's statement and returns the ids of the new events.
func (d db) tryInsert(ctx context.Context, q sqldb.Queryer, events ...store.Event) (ids []string, err error) {
	inserted, err := d.insertLeasing(ctx, q, queue.LeaseOnInsert{}, events...)
	for _, id := range inserted.IDs {
		ids = append(ids, id.ID)
	}
	return ids, err
}

func (d db) insertLeasing(ctx context.Context, q sqldb.Queryer, lease queue.LeaseOnInsert, events ...store.Event) (queue.Inserted, error) {
	events, err := queue.Together(events)
	if err != nil {
		return queue.Inserted{}, err
	}
	return d.Insert(ctx, q, events, lease)
}

func (d db) insert(q sqldb.Queryer, events ...store.Event) []string {
	d.t.Helper()
	ids, err := d.tryInsert(ctx, q, events...)
	require.NoError(d.t, err)
	return ids
}

// publish inserts events that are new.
func (d db) publish(events ...store.Event) {
	d.t.Helper()
	inserted := d.insert(d.DB(), events...)
	require.Len(d.t, inserted, len(events))
}

func (d db) register(instances ...string) {
	d.t.Helper()
	for _, id := range instances {
		require.NoError(d.t, d.Register(ctx, store.Instance{ID: id, Host: "host", PID: 1, DeadAfter: 30 * time.Minute}))
	}
}

// silence makes an instance's last heartbeat an hour old.
func (d db) silence(instance string) {
	d.t.Helper()
	d.exec(`UPDATE reprise.instances SET heartbeat_at = $1 WHERE id = $2`, ago(time.Hour), instance)
}

// claim leases at most n due runs of a handler on topic.
func (d db) claim(instance, handler string, n int) []*queue.Claimed {
	d.t.Helper()
	claimed, err := d.Claim(ctx, d.claimant(instance), []queue.Want{want(topic, handler, n)})
	require.NoError(d.t, err)
	return claimed
}

// refuse makes a trigger, as an application may have one, which refuses the rows of
// a table that become such.
func (d db) refuse(table, such string) (allow func()) {
	d.t.Helper()
	on := d.kind.Qualify(d.Schema(), `reprise.`+table)
	do := func(statement string) {
		d.t.Helper()
		_, err := d.DB().ExecContext(ctx, statement)
		require.NoError(d.t, err)
	}
	if d.kind == dialect.SQLite {
		do(`CREATE TRIGGER refuse BEFORE UPDATE ON ` + on + ` WHEN ` + such + ` BEGIN SELECT raise(ABORT, 'no'); END`)
		return func() { do(`DROP TRIGGER refuse`) }
	}
	function := d.kind.Qualify(d.Schema(), `reprise.refuse`)
	do(`CREATE FUNCTION ` + function + `() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'`)
	do(`CREATE TRIGGER refuse BEFORE UPDATE ON ` + on + ` FOR EACH ROW WHEN (` + such + `) EXECUTE FUNCTION ` + function + `()`)
	return func() { do(`DROP TRIGGER refuse ON ` + on) }
}

// recover has an instance judge that has been in good health for an hour.
func (d db) recover() (dead []string, err error) {
	d.t.Helper()
	return Recover(d.t, d.Store)
}

// Recover has an instance judge that has been in good health for an hour, and is
// gone then.
func Recover(t testing.TB, st *store.Store) (dead []string, err error) {
	t.Helper()
	judge := queue.NewInstanceID()
	require.NoError(t, queue.Of(st).Register(ctx, store.Instance{ID: judge, Host: "host"}))
	kind := st.Database().Kind()
	require.NoError(t, store.Again(ctx, func() error { // others may write
		_, err := st.DB().ExecContext(ctx, kind.Qualify(st.Schema(), `UPDATE reprise.instances SET started_at = $1 WHERE id = $2`), ago(time.Hour), judge)
		return err
	}))
	dead, err = queue.Of(st).Recover(ctx, judge)
	require.NoError(t, queue.Of(st).Deregister(ctx, judge))
	return dead, err
}

// TakeForDead makes the last heartbeats of all instances an hour old and has them
// found dead, at least one. It returns them.
func TakeForDead(t testing.TB, st *store.Store) (dead []string) {
	t.Helper()
	kind, err := dialect.Detect(ctx, st.DB().DB)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // a heartbeat at this very moment holds it off
		require.NoError(t, store.Again(ctx, func() error {
			_, err := st.DB().ExecContext(ctx, kind.Qualify(st.Schema(), `UPDATE reprise.instances SET heartbeat_at = $1`), ago(time.Hour))
			return err
		}))
		dead, err = Recover(t, st)
		require.NoError(t, err)
		return len(dead) > 0
	}, time.Minute, time.Millisecond)
	return dead
}

// claimant is the instance, which knows what it holds.
func (d db) claimant(instance string) queue.Claimant {
	d.t.Helper()
	c := queue.Claimant{Instance: instance, Claims: d.claims(instance)}
	held, err := d.Held(ctx, instance)
	require.NoError(d.t, err)
	for _, l := range held {
		c.Held = append(c.Held, l.RunID)
	}
	return c
}

// claims is how many claims of the instance have leased runs.
func (d db) claims(instance string) int64 {
	d.t.Helper()
	var n int64
	require.NoError(d.t, d.DB().GetContext(ctx, &n, d.kind.Qualify(d.Schema(), `SELECT coalesce(max(claims), 0) FROM reprise.instances WHERE id = $1`), instance))
	return n
}

func want(topic, handler string, n int) queue.Want {
	return queue.Want{Topic: topic, Handler: handler, N: n}
}

// claimOne leases the run that is due, and there must be one.
func (d db) claimOne(instance, handler string) queue.Lease {
	d.t.Helper()
	claimed := d.claim(instance, handler, 1)
	require.Len(d.t, claimed, 1, "no run of handler %q is due", handler)
	return queue.LeaseOf(claimed[0].Run)
}

// end ends leases that hold.
func (d db) end(outcomes ...queue.Outcome) {
	d.t.Helper()
	lost, err := d.End(ctx, outcomes)
	require.NoError(d.t, err)
	require.Empty(d.t, lost)
}

// replay asks for a replay.
func replay(selection store.Filter) store.Operation {
	return store.Operation{Kind: store.Replaying, RequestedBy: "ops", Reason: "mail server is back", Selection: selection}
}

// operate asks for an operation and takes up all its runs.
func (d db) operate(o store.Operation) store.Operation {
	d.t.Helper()
	o, err := d.Request(ctx, o)
	require.NoError(d.t, err)
	return d.takeAll(o)
}

func (d db) takeAll(o store.Operation) store.Operation {
	d.t.Helper()
	for !o.Complete {
		var err error
		o, err = d.Take(ctx, o.ID)
		require.NoError(d.t, err)
	}
	return o
}

func (d db) progress(id int64) store.Progress {
	d.t.Helper()
	p, err := d.Progress(ctx, id)
	require.NoError(d.t, err)
	return p
}

// fail publishes an event and lets the one run that it makes fail.
func (d db) fail(id, handler string) store.Run {
	d.t.Helper()
	d.publish(event(id))
	d.register("the one that fails")
	lease := d.claimOne("the one that fails", handler)
	d.end(queue.Outcome{Lease: lease, Status: store.Failed, Failure: failure("broken")})
	return d.run(lease.RunID)
}

// record is Record, whose run is known by its lease.
func (d db) record(e store.Event, handler, instance string, again bool) (queue.Lease, error) {
	run, err := d.Record(ctx, e, handler, instance, again)
	return queue.LeaseOf(run), err
}

func failure(message string) *store.Failure {
	return &store.Failure{Kind: store.KindError, Message: message}
}

func (d db) run(id int64) store.Run {
	d.t.Helper()
	run, err := d.Run(ctx, id)
	require.NoError(d.t, err)
	return run
}

func (d db) runs(f store.Filter) []store.Run {
	d.t.Helper()
	runs, err := d.Runs(ctx, f)
	require.NoError(d.t, err)
	return runs
}

// only returns the one run that the filter selects.
func (d db) only(f store.Filter) store.Run {
	d.t.Helper()
	runs := d.runs(f)
	require.Len(d.t, runs, 1)
	return runs[0]
}

func (d db) attempts(run int64) []store.Attempt {
	d.t.Helper()
	attempts, err := d.Attempts(ctx, run)
	require.NoError(d.t, err)
	return attempts
}

// exec is what a person does to the tables, written as in package store: it
// must do something.
func (d db) exec(statement string, args ...any) {
	d.t.Helper()
	result, err := d.DB().ExecContext(ctx, d.kind.Qualify(d.Schema(), statement), args...)
	require.NoError(d.t, err)
	n, err := result.RowsAffected()
	require.NoError(d.t, err)
	require.Positive(d.t, n)
}

// column is what a person sees in a column.
func (d db) column(query string, args ...any) []string {
	d.t.Helper()
	values := []string{}
	require.NoError(d.t, d.DB().SelectContext(ctx, &values, d.kind.Qualify(d.Schema(), query), args...))
	return values
}

// ago is a time as both databases read it.
func ago(d time.Duration) string { return at(time.Now().Add(-d)) }

func at(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// atOnce calls f n times at once and returns when all are back. f returns what
// went wrong.
func atOnce(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	start, errs := make(chan struct{}), make(chan error, n)
	for i := range n {
		go func() {
			err := errors.New("the function has ended the test")
			defer func() { errs <- err }()
			<-start
			err = f(i)
		}()
	}
	close(start)
	for range n {
		require.NoError(t, <-errs)
	}
}

func (d db) event(id string) store.Event {
	d.t.Helper()
	e, err := d.Event(ctx, topic, id)
	require.NoError(d.t, err)
	return e
}
