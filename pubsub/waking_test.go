package pubsub_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// Another process's event arrives by notice, not by poll; also when the
// connection that listens was cut meanwhile.
func TestANoticeWakesTheOtherProcess(t *testing.T) {
	t.Parallel()
	url := testdb.Postgres(t)
	here, there := testkit.OpenStore(t, url), testkit.OpenStore(t, url)
	ps := configured(t, here, pubsub.Config{PollInterval: noPoll, ListenURL: url})
	other := configured(t, there, pubsub.Config{})
	messages := subscribe(t, ps, "topic", "handler")
	observer := testdb.Open(t, url)
	waitForListener(t, observer, 0)

	for range 3 {
		require.NoError(t, other.Publisher().Publish("topic", newMessage("x")))
		testkit.Receive(t, messages).Ack()
	}

	tx, err := there.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, other.PublisherTx(tx).Publish("topic", newMessage("x")))
	require.NoError(t, tx.Commit())
	testkit.Receive(t, messages).Ack()

	require.NoError(t, other.InTx(t.Context(), func(tx *pubsub.Transaction) error {
		return other.PublisherTx(tx).Publish("topic", newMessage("x"))
	}))
	testkit.Receive(t, messages).Ack()

	pid := waitForListener(t, observer, 0)
	_, err = observer.Exec(`SELECT pg_terminate_backend($1)`, pid)
	require.NoError(t, err)
	require.NoError(t, other.Publisher().Publish("topic", newMessage("while nobody listens")))
	testkit.Receive(t, messages).Ack()
	waitForListener(t, observer, pid)
	require.NoError(t, other.Publisher().Publish("topic", newMessage("x")))
	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, here, "handler", store.Success, 7)
}

// Many notices become few, and still nothing is overlooked.
func TestEveryEventOfABurstArrivesByNotice(t *testing.T) {
	t.Parallel()
	url := testdb.Postgres(t)
	here, there := testkit.OpenStore(t, url), testkit.OpenStore(t, url)
	ps := configured(t, here, pubsub.Config{PollInterval: noPoll, ListenURL: url})
	other := configured(t, there, pubsub.Config{})
	messages := subscribe(t, ps, "topic", "handler")
	waitForListener(t, testdb.Open(t, url), 0)
	const n = 200
	go func() {
		for range n {
			if err := other.Publisher().Publish("topic", newMessage("x")); err != nil {
				t.Error(err)
			}
		}
	}()
	for range n {
		testkit.Receive(t, messages).Ack()
	}
	testkit.WaitForStatus(t, here, "handler", store.Success, n)
}

func TestThePollFindsWhatAnotherProcessPublishes(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		here, there := testkit.OpenStore(t, url), testkit.OpenStore(t, url)
		ps := configured(t, here, pubsub.Config{PollInterval: 100 * time.Millisecond})
		other := configured(t, there, pubsub.Config{})
		messages := subscribe(t, ps, "topic", "handler")
		require.NoError(t, other.Publisher().Publish("topic", newMessage("x")))
		testkit.Receive(t, messages).Ack()
		tx, err := there.DB().BeginTxx(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, other.PublisherTx(tx).Publish("topic", newMessage("x")))
		require.NoError(t, tx.Commit())
		testkit.Receive(t, messages).Ack()
		testkit.WaitForStatus(t, here, "handler", store.Success, 2)
	})
}

func receiveAcked(t *testing.T, messages <-chan *message.Message) *message.Message {
	t.Helper()
	msg := testkit.Receive(t, messages)
	msg.Ack()
	return msg
}

// waitForListener returns the process of the connection that listens, which is
// another than the one given.
func waitForListener(t *testing.T, db *sql.DB, not int) (pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		err := db.QueryRow(`SELECT pid FROM pg_stat_activity
			WHERE datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle' AND pid <> $1`, not).Scan(&pid)
		return err == nil
	}, patience, 5*time.Millisecond, "nobody listens")
	return pid
}

// A caller's commit that comes later than its notice still wakes others.
func TestALateCommitWakesTheOtherProcess(t *testing.T) {
	t.Parallel()
	url := testdb.Postgres(t)
	here, gate := openGatedStore(t, url)
	there := testkit.OpenStore(t, url)
	ps := configured(t, here, pubsub.Config{PollInterval: noPoll, ListenURL: url})
	other := configured(t, there, pubsub.Config{})
	messages := subscribe(t, ps, "topic", "handler")
	waitForListener(t, testdb.Open(t, url), 0)
	early, err := there.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	late, err := there.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, other.PublisherTx(early).Publish("topic", newMessage("early")))
	require.NoError(t, other.PublisherTx(late).Publish("topic", newMessage("late")))
	before := gate.After(isClaim) // so that the next claim is the one that the notice causes
	subscribe(t, ps, "another", "another")
	before.Wait(t)
	woken := gate.After(isClaim)
	require.NoError(t, early.Commit())
	before.Release()
	woken.Wait(t) // its answer is on the way, without the late one
	require.Eventually(t, func() bool { return len(leased(t, there)) == 1 }, patience, time.Millisecond)
	require.NoError(t, late.Commit())
	woken.Release()
	require.Equal(t, "early", string(receiveAcked(t, messages).Payload))
	require.Equal(t, "late", string(receiveAcked(t, messages).Payload))
}

// With SkipNotify a publish notifies nobody, whatever its way, and others find it by
// their poll.
func TestAPublishThatNotifiesNobodyIsFoundByThePoll(t *testing.T) {
	t.Parallel()
	url := testdb.Postgres(t)
	here, there := testkit.OpenStore(t, url), testkit.OpenStore(t, url)
	ps := configured(t, here, pubsub.Config{PollInterval: 20 * time.Millisecond})
	messages := subscribe(t, ps, "topic", "handler")
	listener := pq.NewListener(url, time.Second, time.Second, nil)
	defer listener.Close()
	require.NoError(t, listener.Listen(there.Database().Channel()))

	silent, loud := configured(t, there, pubsub.Config{SkipNotify: true}), configured(t, there, pubsub.Config{})
	begin := func() *sqlx.Tx {
		tx, err := there.DB().BeginTxx(t.Context(), nil)
		require.NoError(t, err)
		return tx
	}
	require.NoError(t, silent.Publisher().Publish("topic", newMessage("x")))
	tx := begin()
	require.NoError(t, silent.PublisherTx(tx).Publish("topic", newMessage("x")))
	require.NoError(t, tx.Commit())
	require.NoError(t, silent.InTx(t.Context(), func(tx *pubsub.Transaction) error {
		return silent.PublisherTx(tx).Publish("topic", newMessage("x"))
	}))
	for range 3 {
		testkit.Receive(t, messages).Ack()
	}

	// The first notice is that of the first publish that notifies.
	tx = begin()
	require.NoError(t, loud.PublisherTx(tx).Publish("topic", newMessage("x")))
	var process int
	require.NoError(t, tx.Get(&process, `SELECT pg_backend_pid()`))
	require.NoError(t, tx.Commit())
	notice := receiveFrom(t, listener.Notify)
	require.Equal(t, process, notice.BePid)
	testkit.Receive(t, messages).Ack()
}

func receiveFrom[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}
