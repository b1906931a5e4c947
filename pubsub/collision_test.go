package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// withSetting has every connection begin with the setting of PostgreSQL's.
func withSetting(t *testing.T, databaseURL, name, value string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// Publishers of the same events in different orders do not fail by deadlocks:
// those with a transaction of their own are tried again, and in the transactions
// of callers events are locked in one order.
func TestTheSameEventsInDifferentOrders(t *testing.T) {
	t.Parallel()
	const publishers = 4
	for name, publish := range map[string]func(ctx context.Context, ps *pubsub.PubSub, o *pubsub.Outbox, st *store.Store, messages []*message.Message) error{
		"committed by Publish": func(_ context.Context, ps *pubsub.PubSub, _ *pubsub.Outbox, _ *store.Store, messages []*message.Message) error {
			return ps.Publisher().Publish("topic", messages...)
		},
		"in a caller's transaction": func(ctx context.Context, ps *pubsub.PubSub, _ *pubsub.Outbox, st *store.Store, messages []*message.Message) error {
			tx, err := st.DB().BeginTxx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			if err := ps.PublisherTx(tx).Publish("topic", messages...); err != nil {
				return err
			}
			return tx.Commit()
		},
		"in InTx": func(ctx context.Context, ps *pubsub.PubSub, _ *pubsub.Outbox, _ *store.Store, messages []*message.Message) error {
			return ps.InTx(ctx, func(tx *pubsub.Transaction) error { return ps.PublisherTx(tx).Publish("topic", messages...) })
		},
		"into the outbox": func(_ context.Context, _ *pubsub.PubSub, o *pubsub.Outbox, _ *store.Store, messages []*message.Message) error {
			return o.Publisher().Publish("topic", messages...)
		},
	} {
		for _, n := range []int{1500, 2500} { // in one statement, and in several
			t.Run(fmt.Sprint(name, ", ", n), func(t *testing.T) {
				t.Parallel()
				st := testkit.OpenStore(t, withSetting(t, testdb.Postgres(t), "deadlock_timeout", "100"))
				ps := newPubSub(t, st)
				require.NoError(t, ps.Register("topic", "handler", again))
				o := outboxOf(t, ps, (&broker{}).transport(pubsub.ViaOutbox), pubsub.OutboxConfig{})
				for round := range 3 {
					messages := make([]*message.Message, n)
					for i := range messages {
						messages[i] = message.NewMessage(fmt.Sprint(round, "-", i), []byte(`{}`))
					}
					var calls sync.WaitGroup
					errs := make(chan error, publishers)
					for p := range publishers {
						calls.Go(func() {
							mine := make([]*message.Message, n)
							for i := range mine {
								mine[i] = messages[(i+p*n/publishers)%n].Copy()
							}
							if p%2 == 1 {
								slices.Reverse(mine)
							}
							for _, msg := range mine {
								msg.SetContext(t.Context())
							}
							err := publish(t.Context(), ps, o, st, mine)
							for isSerializationFailure(err) { // only where the server's default is serializable; a deadlock counts
								err = publish(t.Context(), ps, o, st, mine)
							}
							errs <- err
						})
					}
					calls.Wait()
					for range publishers {
						require.NoError(t, <-errs)
					}
				}
				if name == "into the outbox" {
					testkit.RequireCount(t, st, "outbox", 3*n)
					return
				}
				testkit.RequireCount(t, st, "events", 3*n)
				testkit.RequireCount(t, st, "handler_runs", 3*n)
			})
		}
	}
}

func isSerializationFailure(err error) bool {
	var state interface{ SQLState() string }
	return errors.As(err, &state) && state.SQLState() == "40001"
}

// The transactions of Reprise's own are READ COMMITTED, whatever the default.
func TestPublishingWhereTransactionsAreSerializable(t *testing.T) {
	t.Parallel()
	databaseURL := withSetting(t, testdb.Postgres(t), "default_transaction_isolation", "serializable")
	st := testkit.OpenStore(t, databaseURL)
	ps := newPubSub(t, st)
	messages := subscribe(t, ps, "topic", "handler")
	o := outboxOf(t, ps, (&broker{}).transport(pubsub.ViaOutbox), pubsub.OutboxConfig{})
	const publishers = 4
	errs := make(chan error, 3*publishers)
	large := func() (large []*message.Message) {
		for range 2100 {
			large = append(large, newMessage("large"))
		}
		return large
	}
	for range publishers {
		go func() { errs <- ps.Publisher().Publish("other", large()...) }()
		go func() { errs <- o.Publisher().Publish("other", large()...) }()
		go func() {
			errs <- ps.PublishInTx(t.Context(), func(tx *pubsub.Transaction) error {
				if err := ps.PublisherTx(tx).Publish("other", newMessage("a")); err != nil {
					return err
				}
				return ps.PublisherTx(tx).Publish("topic", newMessage("b"))
			})
		}()
	}
	for range cap(errs) {
		require.NoError(t, testkit.Receive(t, errs))
	}
	for range publishers {
		testkit.Receive(t, messages).Ack()
	}
	testkit.WaitForStatus(t, st, "handler", store.Success, publishers)
}

// So are the statements by themselves, those on the connection that is kept for
// heartbeats too: processes whose heartbeats read each other's rows in serializable
// transactions refuse each other.
func TestNoStatementIsSerializable(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, withSetting(t, testdb.Postgres(t), "default_transaction_isolation", "serializable"))
	exec(t, st, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF current_setting('transaction_isolation') <> 'read committed' THEN RAISE EXCEPTION '% of % is %', TG_OP, TG_TABLE_NAME, current_setting('transaction_isolation'); END IF;
			RETURN NULL;
		END $$`)
	exec(t, st, `DO $$ DECLARE name text; BEGIN
		FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'reprise' LOOP
			EXECUTE format('CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON reprise.%I FOR EACH STATEMENT EXECUTE FUNCTION refuse()', name);
		END LOOP;
	END $$`)
	ps := configured(t, st, pubsub.Config{HeartbeatInterval: 20 * time.Millisecond, DeadAfter: time.Minute, PollInterval: 20 * time.Millisecond})
	messages := subscribe(t, ps, "topic", "handler")
	for _, answer := range []func(*message.Message) bool{(*message.Message).Ack, (*message.Message).Nack, (*message.Message).Ack} {
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		answer(testkit.Receive(t, messages))
	}
	o := outboxOf(t, ps, (&broker{}).transport(pubsub.ViaOutbox), pubsub.OutboxConfig{})
	require.NoError(t, o.Publisher().Publish("other", newMessage("x")))
	testkit.WaitForStatus(t, st, "handler", store.Success, 2)
	for range 3 {
		var before, now time.Time
		require.NoError(t, st.DB().Get(&before, `SELECT max(heartbeat_at) FROM reprise.instances`))
		require.Eventually(t, func() bool {
			err := st.DB().Get(&now, `SELECT max(heartbeat_at) FROM reprise.instances`)
			return err == nil && now.After(before)
		}, patience, 5*time.Millisecond, "no heartbeat")
	}
}

// A transaction that the database ends because of others is written by the next try.
func TestPublishInTxIsTriedAgainAfterACollision(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.Postgres(t))
	ps := newPubSub(t, st)
	messages := subscribe(t, ps, "topic", "handler")
	exec(t, st, `CREATE SEQUENCE tries`)
	exec(t, st, `CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF nextval('tries') <= 2 THEN RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'Wörter'; END IF;
			RETURN NEW;
		END $$`)
	exec(t, st, `CREATE TRIGGER collide BEFORE INSERT ON reprise.events FOR EACH ROW EXECUTE FUNCTION collide()`)
	require.NoError(t, ps.PublishInTx(t.Context(), func(tx *pubsub.Transaction) error {
		return ps.PublisherTx(tx).Publish("topic", newMessage("x"))
	}))
	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 1)

	// InTx runs the caller's f once, and says why it failed.
	exec(t, st, `ALTER SEQUENCE tries RESTART`)
	calls := 0
	err := ps.InTx(t.Context(), func(tx *pubsub.Transaction) error {
		calls++
		return ps.PublisherTx(tx).Publish("topic", newMessage("y"))
	})
	require.True(t, sqldb.Collided(err), "%v", err)
	require.Equal(t, 1, calls)
}

func exec(t *testing.T, st *store.Store, statement string, args ...any) {
	t.Helper()
	_, err := st.DB().ExecContext(t.Context(), statement, args...)
	require.NoError(t, err)
}

// A publish that the application's trigger refuses, with whatever SQLSTATE, fails
// alone: those that share its statement succeed.
func TestARefusedPublishFailsAlone(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"P0001", "42501", "55000", "0A000", "XX000", "57014"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			st := testkit.OpenStore(t, testdb.Postgres(t))
			ps := newPubSub(t, st)
			st.DB().MustExec(`
				CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '` + state + `'; END $$;
				CREATE TRIGGER refuse BEFORE INSERT ON reprise.events FOR EACH ROW WHEN (NEW.topic = 'refused') EXECUTE FUNCTION refuse()`)
			var publishing sync.WaitGroup
			var refused, failed atomic.Int64
			const callers, each = 8, 40
			for n := range callers {
				publishing.Go(func() {
					for range each {
						topic, count := "topic", &failed
						if n == 0 {
							topic, count = "refused", &refused
						}
						if err := ps.Publisher().Publish(topic, newMessage("x")); err != nil {
							count.Add(1)
							if !strings.Contains(err.Error(), "nothing was written") {
								t.Errorf("the error does not say that nothing was written: %v", err)
							}
						}
					}
				})
			}
			publishing.Wait()
			require.EqualValues(t, each, refused.Load())
			require.Zero(t, failed.Load())
			testkit.RequireCount(t, st, "events", (callers-1)*each)
		})
	}
}
