package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// refusing is a trigger of the application's on a table: what it refuses has the
// payload.
func refusing(t *testing.T, st *store.Store, when, tableName, payload, code string) (allow func()) {
	t.Helper()
	exec(t, st, fmt.Sprintf(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.payload::text = '"%s"' THEN RAISE EXCEPTION USING ERRCODE = '%s', MESSAGE = 'nein'; END IF;
			RETURN NEW;
		END $$`, payload, code))
	exec(t, st, `CREATE TRIGGER refuse BEFORE `+when+` ON reprise.`+tableName+` FOR EACH ROW EXECUTE FUNCTION refuse()`)
	return func() { exec(t, st, `DROP TRIGGER refuse ON reprise.`+tableName) }
}

// fed is a transport of which a test sees each message, and each acknowledgement.
type fed chan *message.Message

func (f fed) Subscribe(context.Context, string) (<-chan *message.Message, error) { return f, nil }
func (f fed) Close() error                                                       { close(f); return nil }

// feed delivers a batch, with an own context for each message, and returns the
// messages.
func (f fed) feed(payloads ...string) map[string]*message.Message {
	all := map[string]*message.Message{}
	for _, payload := range payloads {
		all[payload] = newMessage(`"` + payload + `"`)
	}
	for _, payload := range payloads {
		f <- all[payload]
	}
	return all
}

// closed waits for that.
func closed(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatal("not closed")
	}
}

// What the database refuses of what a transport delivers, for whatever reason of
// its own, holds up nothing else, and comes again.
func TestAnInboxHoldsUpNothingForWhatTheDatabaseRefuses(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{"a constraint": "23514", "a trigger": "P0001", "a trigger's own code": "MY001", "locked": "55P03"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := testkit.OpenStore(t, testdb.Postgres(t))
			allow := refusing(t, st, "INSERT", "events", "culprit", code)
			transport := make(fed, 10)
			// They wait in the channel, and so are a batch, before anybody subscribes.
			all := transport.feed("1", "2", "culprit", "3")
			ps := newPubSub(t, st)
			in, err := ps.Inbox(transport, "handler", again, pubsub.InboxConfig{})
			require.NoError(t, err)
			messages, err := in.Subscribe(t.Context(), "topic")
			require.NoError(t, err)
			for range 3 {
				testkit.Receive(t, messages).Ack()
			}
			for _, payload := range []string{"1", "2", "3"} {
				closed(t, all[payload].Acked())
			}
			culprit := all["culprit"]
			for range 3 {
				closed(t, culprit.Nacked())
				closed(t, transport.feed("between")["between"].Acked())
				testkit.Receive(t, messages).Ack()
				culprit = culprit.Copy()
				transport <- culprit
			}
			allow()
			select {
			case <-culprit.Nacked():
				culprit = culprit.Copy()
				transport <- culprit
			case <-culprit.Acked():
			}
			closed(t, culprit.Acked())
			require.Equal(t, `"culprit"`, string(testkit.Receive(t, messages).Payload))
			require.NoError(t, in.Close())
		})
	}
}

// While everything is locked nothing is given back but what was tried alone, and
// all of it is recorded afterwards.
func TestAnInboxWaitsWhileEverythingIsLocked(t *testing.T) {
	t.Parallel()
	databaseURL := testdb.Postgres(t)
	st := testkit.OpenStore(t, withSetting(t, databaseURL, "lock_timeout", "50"))
	transport := make(fed, 100)
	ps := newPubSub(t, st)
	in, err := ps.Inbox(transport, "handler", again, pubsub.InboxConfig{})
	require.NoError(t, err)
	messages, err := in.Subscribe(t.Context(), "topic")
	require.NoError(t, err)
	lock, err := testdb.Open(t, databaseURL).BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = lock.Exec(`LOCK TABLE reprise.events IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	var payloads []string
	for i := range 20 {
		payloads = append(payloads, fmt.Sprint(i))
	}
	all := transport.feed(payloads...)
	require.Eventually(t, func() bool { return len(transport) == 0 }, patience, time.Millisecond)
	require.NoError(t, lock.Rollback())
	for _, msg := range all {
		go func() {
			for {
				select {
				case <-msg.Acked():
					return
				case <-msg.Nacked():
					msg = msg.Copy()
					transport <- msg
				case <-t.Context().Done():
					return
				}
			}
		}()
	}
	for range payloads {
		testkit.Receive(t, messages).Ack()
	}
	testkit.WaitForStatus(t, st, "handler", store.Success, len(payloads))
}

// A publisher whose id somebody else holds locked fails alone, and others that
// gather with it do not.
func TestAPublishThatFindsItsIDLockedFailsAlone(t *testing.T) {
	t.Parallel()
	databaseURL := testdb.Postgres(t)
	st := testkit.OpenStore(t, withSetting(t, databaseURL, "lock_timeout", "200"))
	ps := newPubSub(t, st)
	other := testkit.OpenStore(t, databaseURL)
	otherPS := newPubSub(t, other)
	tx, err := other.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	held := newMessage("held")
	require.NoError(t, otherPS.PublisherTx(tx).Publish("topic", held))
	defer func() { require.NoError(t, tx.Rollback()) }()

	busy := make(chan error, 2) // both writers wait, so that what comes next gathers
	for range 2 {
		go func() { busy <- ps.Publisher().Publish("topic", held.Copy()) }()
	}
	waitForTransactionLock(t, st, 1)
	errs := make(chan error, 10)
	for range cap(errs) - 1 {
		go func() { errs <- ps.Publisher().Publish("topic", newMessage("good")) }()
	}
	go func() { busy <- ps.Publisher().Publish("topic", held.Copy()) }()
	for range cap(errs) - 1 {
		require.NoError(t, testkit.Receive(t, errs))
	}
	for range 3 {
		require.True(t, sqldb.Locked(testkit.Receive(t, busy)))
	}
}

// The broker gets each event once, though the database does not let one of them be
// marked as sent, and the others are marked.
func TestARelayHoldsUpNothingForWhatCannotBeMarked(t *testing.T) {
	t.Parallel()
	for name, prevent := range map[string]func(t *testing.T, st *store.Store) (allow func()){
		"locked": func(t *testing.T, st *store.Store) func() {
			tx, err := st.DB().BeginTxx(t.Context(), nil)
			require.NoError(t, err)
			_, err = tx.Exec(`SELECT 1 FROM reprise.outbox WHERE payload::text = '"culprit"' FOR UPDATE`)
			require.NoError(t, err)
			return func() { require.NoError(t, tx.Rollback()) }
		},
		"refused": func(t *testing.T, st *store.Store) func() {
			return refusing(t, st, "UPDATE", "outbox", "culprit", "P0001")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := testkit.OpenStore(t, testdb.Postgres(t))
			b := &broker{}
			o := outboxOf(t, newPubSub(t, st), b.transport(pubsub.ViaOutbox), pubsub.OutboxConfig{})
			payloads := []string{`"1"`, `"culprit"`, `"2"`, `"3"`}
			for _, payload := range payloads {
				require.NoError(t, o.Publisher().Publish("topic", keyed("ada", payload)))
			}
			allow := prevent(t, st)
			relay(t, o)
			b.waitFor(t, payloads...)
			waitForSent(t, st, `"1"`, `"2"`, `"3"`)
			require.NoError(t, o.Publisher().Publish("topic", keyed("ada", `"later"`)))
			waitForSent(t, st, `"1"`, `"2"`, `"3"`, `"later"`)
			require.Equal(t, []string{`"culprit"`}, inOutbox(t, st, store.OutgoingPending))
			allow()
			waitForSent(t, st, `"1"`, `"culprit"`, `"2"`, `"3"`, `"later"`)
			b.waitFor(t, append(payloads, `"later"`)...)
		})
	}
}

// While the database is away or busy a process starts by waiting.
func TestSubscribingWaitsForWhatPasses(t *testing.T) {
	t.Parallel()
	for _, lockedTable := range []string{"subscriptions", "instances"} {
		t.Run(lockedTable, func(t *testing.T) {
			t.Parallel()
			databaseURL := testdb.Postgres(t)
			st := testkit.OpenStore(t, withSetting(t, databaseURL, "lock_timeout", "10"))
			log := &logged{to: slog.DiscardHandler}
			ps, err := pubsub.New(st, pubsub.Config{Logger: slog.New(log)})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, ps.Close()) })
			lock, err := testdb.Open(t, databaseURL).BeginTx(t.Context(), nil)
			require.NoError(t, err)
			_, err = lock.Exec(`LOCK TABLE reprise.` + lockedTable + ` IN ACCESS EXCLUSIVE MODE`)
			require.NoError(t, err)

			ctx, cancel := context.WithCancel(t.Context())
			stopped := make(chan error, 1)
			go func() {
				_, err := ps.Subscriber("stopped", again).Subscribe(ctx, "topic")
				stopped <- err
			}()
			subscribed := make(chan (<-chan *message.Message), 1)
			go func() {
				messages, err := ps.Subscriber("handler", again).Subscribe(t.Context(), "topic")
				if err != nil {
					t.Error(err)
				}
				subscribed <- messages
			}()
			require.Eventually(t, func() bool { return log.lines() >= 2 }, patience, time.Millisecond)
			cancel()
			require.ErrorIs(t, testkit.Receive(t, stopped), context.Canceled)
			require.NoError(t, lock.Rollback())
			messages := testkit.Receive(t, subscribed)
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
			testkit.Receive(t, messages).Ack()
			testkit.WaitForStatus(t, st, "handler", store.Success, 1)
		})
	}
	t.Run("the server is away", func(t *testing.T) {
		t.Parallel()
		server := testdb.NewServer(t)
		st := testkit.OpenStore(t, server.URL)
		ps := newPubSub(t, st)
		server.Stop()
		initialized := make(chan error, 1)
		go func() { initialized <- ps.Subscriber("handler", again).SubscribeInitialize("topic") }()
		require.Eventually(t, func() bool { return st.DB().PingContext(t.Context()) != nil }, patience, time.Millisecond)
		server.Start()
		require.NoError(t, testkit.Receive(t, initialized))
		testkit.RequireCount(t, st, "subscriptions", 1)
	})
}

// What does not pass by itself is an error at once.
func TestSubscribingFailsForWhatDoesNotPass(t *testing.T) {
	t.Parallel()
	server := testdb.NewServer(t)
	st := testkit.OpenStore(t, server.URL)
	ps := newPubSub(t, st)
	for _, c := range [][2]string{ // in this order: the second try finds the subscription there
		{`REVOKE INSERT ON reprise.subscriptions FROM app`, `GRANT INSERT ON reprise.subscriptions TO app`},
		{`ALTER TABLE reprise.instances RENAME TO instances_old`, `ALTER TABLE reprise.instances_old RENAME TO instances`},
	} {
		statement, undo := c[0], c[1]
		server.Exec(statement)
		_, err := ps.Subscriber("handler", again).Subscribe(t.Context(), "topic")
		require.Error(t, err, statement)
		require.False(t, sqldb.Transient(err), "%v", err)
		require.NotErrorIs(t, err, context.Canceled)
		server.Exec(undo)
	}
	subscribe(t, ps, "topic", "handler")
}

// Publishing with a sequence that is behind is an error that says so: the event is
// not taken for known. An Inbox records what was refused when the sequence is set.
func TestASequenceThatIsBehindLosesNothing(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.Postgres(t))
	ps := newPubSub(t, st)
	require.NoError(t, ps.Register("topic", "handler", again))
	var old []*message.Message
	for range 500 {
		old = append(old, newMessage("old"))
	}
	require.NoError(t, ps.Publisher().Publish("topic", old...))
	exec(t, st, `UPDATE reprise.handler_runs SET status = 'SUCCESS', due_at = NULL, finished_at = now()`)
	exec(t, st, `ALTER TABLE reprise.handler_runs ALTER COLUMN id RESTART WITH 1`)
	const hint = "the table's sequence is behind its rows"

	require.ErrorContains(t, ps.Publisher().Publish("topic", newMessage("one")), hint)
	require.ErrorContains(t, ps.Publisher().Publish("topic", newMessage("two"), newMessage("three")), hint)
	require.ErrorContains(t, ps.InTx(t.Context(), func(tx *pubsub.Transaction) error {
		return ps.PublisherTx(tx).Publish("topic", newMessage("four"))
	}), hint)
	tx, err := st.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	err = ps.PublisherTx(tx).Publish("topic", newMessage("five"))
	require.ErrorContains(t, err, hint)
	require.NotErrorIs(t, err, queue.ErrKnown)
	require.False(t, errors.Is(err, pubsub.ErrMaybeWritten))
	require.NoError(t, tx.Rollback())
	testkit.RequireCount(t, st, "events", len(old))

	transport := make(fed, 10)
	in, err := ps.Inbox(transport, "handler", again, pubsub.InboxConfig{})
	require.NoError(t, err)
	messages, err := in.Subscribe(t.Context(), "topic")
	require.NoError(t, err)
	msg := transport.feed("received")["received"]
	closed(t, msg.Nacked())
	exec(t, st, `SELECT setval(pg_get_serial_sequence('reprise.handler_runs', 'id'), (SELECT max(id) FROM reprise.handler_runs))`)
	msg = msg.Copy()
	transport <- msg
	closed(t, msg.Acked())
	require.Equal(t, `"received"`, string(testkit.Receive(t, messages).Payload))
	require.NoError(t, in.Close())
}
