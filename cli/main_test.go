package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// db is a database with what a test does to it, and the command line on it.
type db struct {
	*store.Store
	*queue.Queue
	*operate.Operator
	t   *testing.T
	url string
}

// eachDB runs f on a database with Reprise's tables, of every kind.
func eachDB(t *testing.T, f func(t *testing.T, db *db)) {
	t.Helper()
	testdb.Each(t, func(t *testing.T, url string) { f(t, migrated(t, url)) })
}

func migrated(t *testing.T, url string) *db {
	t.Helper()
	pool := testdb.Open(t, url)
	require.NoError(t, migrations.Up(t.Context(), pool, ""))
	st, err := store.New(t.Context(), pool, "")
	require.NoError(t, err)
	return &db{st, queue.Of(st), operate.On(st), t, url}
}

// result is how a command ended.
type result struct {
	t         *testing.T
	code      int
	out, errs string
}

// reprise runs a command on the database.
func (d *db) reprise(args ...string) result {
	d.t.Helper()
	return d.repriseWith(d.t.Context(), nil, strings.NewReader(""), args...)
}

func (d *db) repriseWith(ctx context.Context, env map[string]string, stdin io.Reader, args ...string) result {
	d.t.Helper()
	all := map[string]string{"REPRISE_DATABASE_URL": d.url}
	for k, v := range env {
		all[k] = v
	}
	return reprise(ctx, d.t, all, stdin, args...)
}

func reprise(ctx context.Context, t *testing.T, env map[string]string, stdin io.Reader, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := exec(ctx, Config{}, stdin, &out, &errs, args, func(name string) string { return env[name] })
	return result{t, code, out.String(), errs.String()}
}

// ok is a command that does what it should.
func (r result) ok() result {
	r.t.Helper()
	require.Zero(r.t, r.code, r.errs)
	return r
}

// fails is a command that ends with the code, and says why.
func (r result) fails(code int, why string) result {
	r.t.Helper()
	require.Equal(r.t, code, r.code, r.out+r.errs)
	require.Contains(r.t, r.errs, why)
	return r
}

func (r result) json(into any) {
	r.t.Helper()
	require.NoError(r.t, json.Unmarshal([]byte(r.out), into), r.out+r.errs)
}

// operation reads the operation that a command printed.
func (r result) operation() (o wire.Operation) {
	r.t.Helper()
	r.json(&o)
	return o
}

const topic = "user.signed_up"

// subscribe makes handlers known that nobody serves.
func (d *db) subscribe(names ...string) {
	d.t.Helper()
	for _, name := range names {
		require.NoError(d.t, d.Subscribe(d.t.Context(), store.Subscription{Topic: topic, Handler: name}, `{"attempts":3,"cycles":2,"cycle_interval":"1h0m0s","timeout":"10s"}`))
	}
}

// failed makes n runs that failed.
func (d *db) failed(handler string, n int) []int64 {
	d.t.Helper()
	return d.ended(handler, n, store.Failed)
}

func (d *db) ended(handler string, n int, status store.Status) []int64 {
	d.t.Helper()
	ids := make([]int64, n)
	for i := range n {
		e := store.Event{
			ID: fmt.Sprintf("%s-%s-%d", handler, strings.ToLower(string(status)), i), Topic: topic, Source: "test", Key: fmt.Sprintf("user-%d", i),
			Payload: fmt.Appendf(nil, `{"user":{"id":%d},"email":"ada@example.com"}`, i), Metadata: map[string]string{"name": "user.signed_up"},
		}
		run, err := d.Record(d.t.Context(), e, handler, "host/1/abc", false)
		require.NoError(d.t, err)
		o := queue.Outcome{Lease: queue.LeaseOf(run), Status: status}
		if status == store.Failed {
			o.Failure = store.NewFailure(handler, store.KindPanic, "the mail server\nis down")
			o.Failure.Stack = "goroutine 1 [running]:\nmain.send()"
		}
		lost, err := d.End(d.t.Context(), []queue.Outcome{o})
		require.NoError(d.t, err)
		require.Empty(d.t, lost)
		ids[i] = run.ID
	}
	return ids
}

// manyFailed makes n runs that failed, fast.
func (d *db) manyFailed(handler string, n int) {
	d.t.Helper()
	numbers := fmt.Sprintf(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) `, n)
	d.exec(`INSERT INTO reprise.events (id, topic, payload, source) `+numbers+`SELECT 'many-' || i, $1, '{}', 'test' FROM n`, topic)
	d.exec(`INSERT INTO reprise.handler_runs (event_id, topic, handler, status, attempt, finished_at, failed_at, error_kind, error, fingerprint) `+numbers+`
		SELECT 'many-' || i, $1, $2, 'FAILED', 1, '2026-07-01T12:00:00.000Z', '2026-07-01T12:00:00.000Z', 'error', 'the mail server is down', '0123456789abcdef' FROM n`, topic, handler)
}

// exec is what a person does to the tables.
func (d *db) exec(statement string, args ...any) {
	d.t.Helper()
	kind, err := dialect.Detect(d.t.Context(), d.DB().DB)
	require.NoError(d.t, err)
	_, err = d.DB().ExecContext(d.t.Context(), kind.Qualify(d.Schema(), statement), args...)
	require.NoError(d.t, err)
}

// status is where a run stands.
func (d *db) status(id int64) store.Status {
	d.t.Helper()
	run, err := d.Run(d.t.Context(), id)
	require.NoError(d.t, err)
	return run.Status
}

type signedUp struct{}

func (signedUp) EventName() string { return topic }

// serve runs a bus with a handler, and returns when it serves.
func (d *db) serve(handler string, handle func() error) {
	d.t.Helper()
	b, err := bus.New(d.t.Context(), bus.Config{DB: d.DB().DB, PollInterval: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(d.t, err)
	require.NoError(d.t, b.Handle(handlers.New(handler, func(context.Context, signedUp) error { return handle() }, handlers.Policy{Attempts: 1, Cycles: 1})))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	d.t.Cleanup(func() {
		stop()
		require.NoError(d.t, <-done)
		require.NoError(d.t, b.Close())
	})
	d.eventually(func() bool {
		subscribed, err := d.Subscriptions(d.t.Context())
		require.NoError(d.t, err)
		for _, s := range subscribed {
			if s.Handler == handler && s.Instances > 0 {
				return true
			}
		}
		return false
	})
}

func (d *db) eventually(condition func() bool) {
	d.t.Helper()
	eventually(d.t, condition)
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	for giveUp := time.Now().Add(time.Minute); !condition(); {
		require.True(t, time.Now().Before(giveUp), "it never came to be so")
		time.Sleep(2 * time.Millisecond)
	}
}
