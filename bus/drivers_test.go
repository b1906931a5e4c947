package bus_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// Everything that a bus does works on every driver, in every mode that it has,
// with prepared statements and without.
func TestABusOnEveryDriver(t *testing.T) {
	t.Parallel()
	for _, d := range testdb.Drivers() {
		for _, unprepared := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, unprepared %t", d.Name, unprepared), func(t *testing.T) {
				t.Parallel()
				address := withTable(t, testdb.Postgres(t))
				doEverything(t, d.Open(t, address), bus.Config{Unprepared: unprepared})
			})
		}
	}
}

// Everything that a bus does works through a PgBouncer in transaction mode that
// has fewer connections than the bus uses at once. What is there to be set is in
// docs/postgres.md.
func TestABusThroughPgBouncer(t *testing.T) {
	t.Parallel()
	for _, d := range testdb.Drivers() {
		if !d.Pools {
			continue
		}
		for name, settings := range map[string][]string{
			"":                     {"default_pool_size = 3"},
			", short-lived":        {"default_pool_size = 3", "server_lifetime = 1"},
			", DISCARD ALL always": {"default_pool_size = 3", "server_reset_query = DISCARD ALL", "server_reset_query_always = 1"},
		} {
			t.Run(d.Name+name, func(t *testing.T) {
				t.Parallel()
				direct := withTable(t, testdb.Postgres(t))
				through := testdb.Bouncer(t, direct, settings...)
				doEverything(t, d.Open(t, through), bus.Config{Unprepared: true, ListenURL: direct})
			})
		}
	}
}

// What a transaction pooler without prepared statements refuses says what to set.
func TestPreparedStatementsThroughPgBouncer(t *testing.T) {
	t.Parallel()
	for _, d := range testdb.Drivers() {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			// Nothing prepares the same statement on the same connection of the
			// server as often as many clients of two connections.
			through := testdb.Bouncer(t, testdb.Postgres(t), "default_pool_size = 2")
			b, err := bus.New(t.Context(), bus.Config{DB: d.Open(t, through), Logger: quiet()})
			require.NoError(t, err)
			failures := make(chan error, 16*200)
			for range 200 {
				var publishers sync.WaitGroup
				for range 16 {
					publishers.Go(func() {
						if err := b.Publish(t.Context(), step{N: 1}, step{N: 2}); err != nil {
							failures <- err
						}
					})
				}
				publishers.Wait()
				if len(failures) > 0 {
					break
				}
			}
			close(failures)
			for err := range failures { // or each was prepared anew until it worked
				var state interface{ SQLState() string }
				if !errors.As(err, &state) || state.SQLState() != "08P01" { // with which a connection may end, too
					require.ErrorContains(t, err, "nothing was written")
				}
				require.ErrorContains(t, err, "set Unprepared")
				require.ErrorContains(t, err, "docs/postgres.md")
			}
			_ = b.Close() // it may not get to say farewell
		})
	}
}

// A role that may do what docs/postgres.md grants it runs a bus, tables of later
// versions included, and does not migrate.
func TestALeastPrivilegedRoleRunsABus(t *testing.T) {
	t.Parallel()
	roles := testdb.NewRoles(t, "../docs/postgres.md", func(url string) {
		require.NoError(t, migrations.Up(t.Context(), testdb.Open(t, url), ""))
	})
	withTable(t, roles.Server.URL)
	roles.Server.Exec(`GRANT SELECT, INSERT ON written TO application`)
	db := testdb.Open(t, roles.Application)
	doEverything(t, db, bus.Config{SkipMigrations: true})

	_, err := db.Exec(`DELETE FROM reprise.migrations`)
	require.ErrorContains(t, err, "42501", "it leaves the version of the tables alone")
	_, err = testdb.Open(t, roles.Migrator).Exec(`CREATE TABLE reprise.later (id bigint GENERATED ALWAYS AS IDENTITY, n int)`)
	require.NoError(t, err)
	for _, statement := range []string{`INSERT INTO reprise.later (n) VALUES (1)`, `UPDATE reprise.later SET n = 2`, `DELETE FROM reprise.later`} {
		_, err = db.Exec(statement)
		require.NoError(t, err)
	}
}

// withTable makes the table that doEverything needs.
func withTable(t *testing.T, address string) string {
	t.Helper()
	_, err := testdb.Open(t, address).Exec(`CREATE TABLE written (n int)`)
	require.NoError(t, err)
	return address
}

// A text in which each character is one that a driver which puts values into
// the statement has to take care of.
const odd = `it's \ "quoted" é 🎉 $1 ? %s {} \x41 E'\n' -- /* ` + "\n"

type step struct {
	N    int
	Text string
}

func (step) EventName() string { return "step" }

// doEverything lets a bus publish, handle, try again, fail, replay, recover and
// prune on the pool.
func doEverything(t *testing.T, db *sql.DB, config bus.Config) {
	t.Helper()
	ctx := t.Context()
	config.DB, config.Logger = db, quiet()
	config.PollInterval, config.HeartbeatInterval, config.DeadAfter = 50*time.Millisecond, 500*time.Millisecond, 3*time.Second
	b, err := bus.New(ctx, config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })

	cause := "no \x00 way \xff " + odd
	broken := true // until it is mended
	var mu sync.Mutex
	mend := func(to bool) {
		mu.Lock()
		defer mu.Unlock()
		broken = !to
	}
	require.NoError(t, b.Handle(
		handlers.New("handle", func(_ context.Context, e step) error {
			mu.Lock()
			defer mu.Unlock()
			if e.N == 2 && broken {
				return errors.New(cause)
			}
			return nil
		}, handlers.Policy{Attempts: 2, Backoff: handlers.Backoff{Initial: time.Millisecond}, Cycles: 1}),
		handlers.New("write", func(ctx context.Context, e step) error {
			tx, _ := handlers.Tx(ctx)
			_, err := tx.ExecContext(ctx, `INSERT INTO written VALUES (1)`)
			return err
		}, handlers.Policy{Transactional: true, Concurrency: 4, From: handlers.Beginning}),
	))

	// Before it runs, and while it does: one event, several, in a transaction.
	require.NoError(t, b.Publish(ctx, step{N: 1, Text: odd}))
	run(t, b)
	require.NoError(t, b.Publish(ctx, step{N: 2}, step{N: 3, Text: odd}))
	// "write" is at work in transactions, too. Where those of the database are
	// serializable, each of them may have to be begun again.
	require.NoError(t, store.Again(ctx, func() error {
		return b.InTx(ctx, func(tx *bus.Tx) error {
			return b.PublishTx(ctx, tx, step{N: 4}, step{N: 5})
		})
	}))
	require.NoError(t, store.Again(ctx, func() error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := b.PublishTx(ctx, tx, step{N: 6}); err != nil {
			return err
		}
		return tx.Commit()
	}))
	var publishers sync.WaitGroup
	failed := make(chan error, 16)
	for i := range cap(failed) {
		publishers.Go(func() {
			for j := range 10 {
				if err := b.Publish(ctx, step{N: 1000 + 10*i + j}); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	publishers.Wait()
	close(failed)
	require.NoError(t, <-failed)
	const events = 6 + 160

	counted := func(status store.Status, want int) {
		t.Helper()
		require.Eventually(t, func() bool {
			var n int
			err := db.QueryRowContext(ctx, `SELECT count(*) FROM `+b.Store().Schema()+`.handler_runs WHERE status = $1`, string(status)).Scan(&n)
			return err == nil && n == want
		}, patience, 20*time.Millisecond, "not %d runs are %s", want, status)
	}
	counted(store.Success, 2*events-1)
	counted(store.Failed, 1)
	var written int
	require.NoError(t, db.QueryRowContext(ctx, `SELECT count(*) FROM written`).Scan(&written))
	require.Equal(t, events, written, "each event was handled once in its transaction")

	// The failure is on record, is found by everything that there is to look
	// with, and is healed by a replay.
	group, err := b.Store().Groups(ctx, store.Filter{})
	require.NoError(t, err)
	require.Len(t, group, 1)
	found, err := b.Store().Runs(ctx, store.Filter{
		Status: store.Failed, Handler: "handle", Group: group[0].Fingerprint, Kind: store.KindError, Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour),
		Payload: []store.Condition{{Path: []string{"N"}, Op: store.Equal, Value: "2"}},
	})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Contains(t, found[0].Error, odd[:20])
	attempts, err := b.Store().Attempts(ctx, found[0].ID)
	require.NoError(t, err)
	require.Len(t, attempts, 2)
	mend(true)
	asked, err := replay.All(ctx, b.Store(), store.Filter{Group: group[0].Fingerprint}, replay.Request{By: "maria", Reason: odd, Rate: 100})
	require.NoError(t, err)
	counted(store.Failed, 0)
	counted(store.Success, 2*events)
	progress, err := replay.Progress(ctx, b.Store(), asked.ID)
	require.NoError(t, err)
	require.EqualValues(t, 1, progress.Succeeded)

	// Any bytes come back, under any id.
	ps, err := pubsub.New(b.Store(), pubsub.Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, ps.Close()) }()
	bytes := "\x00\xff'\\\"{}"
	for n := range 3 { // one, and then several, by another statement
		var messages []*message.Message
		for i := range n + 1 {
			messages = append(messages, message.NewMessage(fmt.Sprintf(`odd'\id %d %d`, n, i), []byte(bytes)))
		}
		require.NoError(t, ps.Publisher().Publish("bytes", messages...))
		e, err := b.Store().Event(ctx, "bytes", fmt.Sprintf(`odd'\id %d 0`, n))
		require.NoError(t, err)
		require.Equal(t, bytes, string(e.Payload))
	}

	// The run of a process that died is somebody else's.
	require.NoError(t, queue.Of(b.Store()).Subscribe(ctx, store.Subscription{Topic: "bytes", Handler: "dies"}, ""))
	require.NoError(t, queue.Of(b.Store()).Register(ctx, store.Instance{ID: "dead"}))
	require.NoError(t, ps.Publisher().Publish("bytes", message.NewMessage("of the dead", []byte(bytes))))
	claimed, err := queue.Of(b.Store()).Claim(ctx, queue.Claimant{Instance: "dead"}, []queue.Want{{Topic: "bytes", Handler: "dies", N: 1}})
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	_, err = db.ExecContext(ctx, `UPDATE `+b.Store().Schema()+`.instances SET heartbeat_at = now() - interval '1 hour' WHERE id = 'dead'`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		r, err := b.Store().Run(ctx, claimed[0].Run.ID)
		return err == nil && r.Instance == "" && r.ErrorKind == store.KindAbandoned
	}, patience, 20*time.Millisecond, "nobody recovered the run")

	pruned, err := b.Store().Prune(ctx, store.Prune{Before: time.Now().Add(time.Hour), By: store.By{Name: "maria"}}, nil)
	require.NoError(t, err)
	require.EqualValues(t, events+6, pruned.Events)
	require.NoError(t, migrations.Check(ctx, db, config.Schema))
}
