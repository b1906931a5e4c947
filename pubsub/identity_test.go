package pubsub_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// A claim whose answer was lost together with the network: what it leased is
// handled all the same, under a new identity, and the old one is forgotten.
func TestAClaimWhoseAnswerWasLostLosesNoRun(t *testing.T) {
	t.Parallel()
	direct, w, ps := overWire(t)
	messages := subscribe(t, ps, "topic", "handler")
	waitUntilNothingWaits(t, ps)
	former := onlyInstance(t, direct)
	handleOne(t, direct, ps, messages, 1)

	answer := w.lose(func(frame []byte) bool { // a claim that finds the run
		return binds(frame, `{"topic"}`, `{"handler"}`) && len(runs(t, direct, store.Filter{})) == 2
	})
	due(t, direct)
	testkit.Receive(t, answer)
	require.Len(t, leased(t, direct), 1, "the claim was committed")
	w.mend(t)

	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, direct, "handler", store.Success, 2)
	waitUntilForgotten(t, direct, former)
	requireNothingHeldByNobody(t, direct)
	handleOne(t, direct, ps, messages, 3)
}

func TestAnInsertWhoseAnswerWasLostLosesNoRun(t *testing.T) {
	t.Parallel()
	direct, w, ps := overWire(t)
	messages := subscribe(t, ps, "topic", "handler")
	waitUntilNothingWaits(t, ps)
	former := onlyInstance(t, direct)
	handleOne(t, direct, ps, messages, 1)

	sent := newMessage("x")
	answer := w.lose(func(frame []byte) bool { return binds(frame, sent.UUID) })
	require.ErrorContains(t, ps.Publisher().Publish("topic", sent), "may have been written")
	testkit.Receive(t, answer)
	require.Len(t, leased(t, direct), 1, "it was handed over to nobody")
	w.mend(t)

	msg := testkit.Receive(t, messages)
	require.Equal(t, sent.UUID, msg.UUID)
	msg.Ack()
	testkit.WaitForStatus(t, direct, "handler", store.Success, 2)
	waitUntilForgotten(t, direct, former)
	requireNothingHeldByNobody(t, direct)
	handleOne(t, direct, ps, messages, 3)
}

// The same for the commit of InTx: nobody knows whether it was one.
func TestACommitOfInTxWhoseAnswerWasLostLosesNoRun(t *testing.T) {
	t.Parallel()
	direct, w, ps := overWire(t)
	messages := subscribe(t, ps, "topic", "handler")
	waitUntilNothingWaits(t, ps)
	former := onlyInstance(t, direct)
	handleOne(t, direct, ps, messages, 1)

	var answer <-chan struct{}
	require.ErrorContains(t, ps.InTx(t.Context(), func(tx *pubsub.Transaction) error {
		defer func() {
			answer = w.lose(func(frame []byte) bool { return frame[0] == 'Q' && bytes.Contains(frame, []byte("COMMIT")) })
		}()
		return ps.PublisherTx(tx).Publish("topic", newMessage("x"))
	}), "commit: ")
	testkit.Receive(t, answer)
	w.mend(t)

	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, direct, "handler", store.Success, 2)
	waitUntilForgotten(t, direct, former)
	requireNothingHeldByNobody(t, direct)
}

// Handlers that run while the identity changes end as if nothing had happened,
// and until then the former identity is alive.
func TestRunningHandlersOutliveTheirIdentity(t *testing.T) {
	t.Parallel()
	direct, w, ps := overWire(t)
	messages := subscribe(t, ps, "topic", "handler")
	waitUntilNothingWaits(t, ps)
	former := onlyInstance(t, direct)
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("long")))
	long := testkit.Receive(t, messages)

	sent := newMessage("x")
	answer := w.lose(func(frame []byte) bool { return binds(frame, sent.UUID) })
	require.Error(t, ps.Publisher().Publish("topic", sent))
	testkit.Receive(t, answer)
	w.mend(t)
	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, direct, "handler", store.Success, 1)

	beaten := heartbeat(t, direct, former)
	require.Eventually(t, func() bool { return heartbeat(t, direct, former) > beaten }, patience, time.Millisecond, "it is alive")
	testkit.RequireCount(t, direct, "instances", 2)
	long.Ack()
	testkit.WaitForStatus(t, direct, "handler", store.Success, 2)
	run, err := direct.Run(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, former, run.Instance)
	require.Equal(t, 1, run.Attempt)
	require.Empty(t, attemptsOf(t, direct, run))
	waitUntilForgotten(t, direct, former)
}

// The server commits an insert long after everybody has given it up, and after
// the identity that it leases to was forgotten: then it leases nothing.
func TestAnInsertThatIsCommittedTooLateLeasesNothing(t *testing.T) {
	t.Parallel()
	direct, w, ps := overWire(t)
	messages := subscribe(t, ps, "topic", "handler")
	waitUntilNothingWaits(t, ps)
	former := onlyInstance(t, direct)
	handleOne(t, direct, ps, messages, 1)

	sent, failed := newMessage("late"), make(chan error, 1)
	release := holdID(t, direct, sent.UUID)
	go func() { failed <- ps.Publisher().Publish("topic", sent) }()
	waitForTransactionLock(t, direct, 1)
	w.sever()
	require.ErrorContains(t, testkit.Receive(t, failed), "may have been written")
	w.mend(t)
	waitUntilForgotten(t, direct, former)
	_, err := direct.Event(t.Context(), "topic", sent.UUID)
	require.ErrorIs(t, err, store.ErrNotFound)

	release()
	msg := testkit.Receive(t, messages)
	require.Equal(t, sent.UUID, msg.UUID)
	requireNothingHeldByNobody(t, direct)
	msg.Ack()
	testkit.WaitForStatus(t, direct, "handler", store.Success, 2)
	handleOne(t, direct, ps, messages, 3)
}

// Runs of an insert that waits for the very table, held up with its identity's
// row locked or not: whenever it is let go, nobody holds them without knowing.
func TestAnInsertThatTheTableHoldsUpLeasesToNobodyUnknown(t *testing.T) {
	t.Parallel()
	direct, w, ps := overWire(t)
	messages := subscribe(t, ps, "topic", "handler")
	waitUntilNothingWaits(t, ps)
	former := onlyInstance(t, direct)
	for n := range 3 { // from then on until the seventh the insert is not prepared anew
		handleOne(t, direct, ps, messages, n+1)
	}

	lock, err := direct.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	lock.MustExec(`LOCK TABLE reprise.handler_runs IN EXCLUSIVE MODE`)
	sent, failed := newMessage("x"), make(chan error, 1)
	go func() { failed <- ps.Publisher().Publish("topic", sent) }()
	require.Eventually(t, func() bool {
		var n int
		err := direct.DB().Get(&n, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND wait_event = 'relation' AND query LIKE '%.events AS was%'`)
		return err == nil && n == 1
	}, patience, time.Millisecond)
	w.sever()
	require.Error(t, testkit.Receive(t, failed))
	w.mend(t)
	// Either a new identity comes, or a claim of the old one waits for the table too.
	require.Eventually(t, func() bool {
		var n int
		err := direct.DB().Get(&n, `SELECT (SELECT count(*) FROM reprise.instances WHERE id <> $1)
			+ (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation' AND query LIKE '%SKIP LOCKED%')`, former)
		return err == nil && n >= 1
	}, patience, time.Millisecond)
	require.NoError(t, lock.Rollback())
	require.NoError(t, ps.Publisher().Publish("topic", sent), "again, to be sure: the server may not have come to it")

	msg := testkit.Receive(t, messages)
	require.Equal(t, sent.UUID, msg.UUID)
	msg.Ack()
	testkit.WaitForStatus(t, direct, "handler", store.Success, 4)
	require.Eventually(t, func() bool {
		var n int
		return direct.DB().Get(&n, `SELECT count(*) FROM reprise.instances`) == nil && n == 1
	}, patience, time.Millisecond, "the former identity is still there, beside a new one")
	requireNothingHeldByNobody(t, direct)
}

// ---

// overWire returns a store on the database itself, and a PubSub over the wire.
func overWire(t *testing.T) (direct *store.Store, w *wire, ps *pubsub.PubSub) {
	t.Helper()
	address := testdb.Postgres(t)
	direct = testkit.OpenStore(t, address)
	w, through := newWire(t, address)
	return direct, w, configured(t, testkit.OpenStore(t, through), pubsub.Config{PollInterval: 20 * time.Millisecond, HeartbeatInterval: 40 * time.Millisecond})
}

// handleOne publishes and handles; then the runs that succeeded are so many.
func handleOne(t *testing.T, direct *store.Store, ps *pubsub.PubSub, messages <-chan *message.Message, successes int) {
	t.Helper()
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, direct, "handler", store.Success, successes)
}

func onlyInstance(t *testing.T, st *store.Store) (id string) {
	t.Helper()
	require.NoError(t, st.DB().GetContext(t.Context(), &id, `SELECT id FROM reprise.instances`))
	return id
}

func heartbeat(t *testing.T, st *store.Store, instance string) (at string) {
	t.Helper()
	require.NoError(t, st.DB().GetContext(t.Context(), &at, `SELECT heartbeat_at::text FROM reprise.instances WHERE id = $1`, instance))
	return at
}

// waitUntilForgotten waits until only another instance is left.
func waitUntilForgotten(t *testing.T, st *store.Store, former string) {
	t.Helper()
	require.Eventually(t, func() bool {
		var ids []string
		err := st.DB().SelectContext(t.Context(), &ids, `SELECT id FROM reprise.instances`)
		return err == nil && len(ids) == 1 && ids[0] != former
	}, patience, time.Millisecond, "the former identity is still there, or none is new")
}

// wire is a connection to PostgreSQL that knows its protocol: it can lose the
// answer to a statement that the server has executed.
type wire struct {
	mu      sync.Mutex
	down    bool // new connections are refused
	refused int
	losing  func(frame []byte) bool
	lost    chan struct{}
	clients []net.Conn
	servers []net.Conn
}

// newWire returns the URL of the database through the wire.
func newWire(t *testing.T, address string) (*wire, string) {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	server := u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{}
	t.Cleanup(func() { // when the pools are closed
		_ = listener.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range w.servers {
			_ = c.Close()
		}
	})
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			w.connect(client, server)
		}
	}()
	u.Host = listener.Addr().String()
	return w, u.String()
}

func (w *wire) connect(client net.Conn, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	server, err := net.Dial("tcp", address)
	if err != nil || w.down {
		w.refused++
		_ = client.Close()
		return
	}
	w.clients, w.servers = append(w.clients, client), append(w.servers, server)
	mute := make(chan struct{})
	go w.ask(client, server, mute)
	go w.answer(client, server, mute)
}

// ask passes on what the client sends; the server is not told of the end.
func (w *wire) ask(client, server net.Conn, mute chan<- struct{}) {
	for startup := true; ; startup = false {
		frame, err := readFrame(client, startup)
		if err != nil {
			return
		}
		w.mu.Lock()
		if w.losing != nil && !startup && w.losing(frame) {
			w.losing = nil
			close(mute)
		}
		w.mu.Unlock()
		if _, err := server.Write(frame); err != nil {
			return
		}
	}
}

// answer passes on what the server answers, but for what is to be lost: when
// that is complete, the network is down.
func (w *wire) answer(client, server net.Conn, mute <-chan struct{}) {
	defer client.Close()
	for {
		frame, err := readFrame(server, false)
		if err != nil {
			return
		}
		select {
		case <-mute:
			if frame[0] == 'Z' { // ready for the next: it is done
				w.sever()
				w.lost <- struct{}{}
				return
			}
		default:
			if _, err := client.Write(frame); err != nil {
				return
			}
		}
	}
}

// readFrame reads one message of the protocol; the first has no type.
func readFrame(from io.Reader, startup bool) ([]byte, error) {
	head := make([]byte, 5)
	if startup {
		head = head[:4]
	}
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(head[len(head)-4:])
	frame := append(head, make([]byte, length-4)...)
	_, err := io.ReadFull(from, frame[len(head):])
	return frame, err
}

// lose makes the network fail when the server has done what the frame asks for
// that losing finds next, and before it says so. It sends on lost then.
func (w *wire) lose(losing func(frame []byte) bool) (lost <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.losing, w.lost = losing, make(chan struct{}, 1)
	return w.lost
}

// binds says whether the frame runs a statement with these parameters.
func binds(frame []byte, parameters ...string) bool {
	for _, p := range parameters {
		if frame[0] != 'B' || !bytes.Contains(frame, []byte(p)) {
			return false
		}
	}
	return true
}

// sever ends all connections, of which the server is not told, until mend.
func (w *wire) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for _, c := range w.clients {
		_ = c.Close()
	}
	w.clients = nil
}

// mend lets connect again, when whatever was under way has failed for good.
func (w *wire) mend(t *testing.T) {
	t.Helper()
	const enough = 10 // database/sql tries three times
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.refused < enough {
			return false
		}
		w.down, w.refused = false, 0
		return true
	}, patience, time.Millisecond)
}

// Whoever looks for a process that serves a handler finds it soon, not at the
// next heartbeat.
func TestWhatAProcessServesIsTold(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := configured(t, st, pubsub.Config{HeartbeatInterval: time.Hour, DeadAfter: 24 * time.Hour})
		subscribe(t, ps, "topic", "one")
		subscribe(t, ps, "topic", "another")
		require.Eventually(t, func() bool {
			instances, err := st.Instances(t.Context())
			require.NoError(t, err)
			return len(instances) == 1 && slices.Equal(instances[0].Handlers, []string{"another", "one"})
		}, patience, time.Millisecond)
	})
}
