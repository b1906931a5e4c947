package pubsub_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// What each part of a PubSub logs of itself, once when it begins to fail and
// once when it works again.
const (
	claiming  = "claiming due runs"
	finishing = "writing how runs ended"
	beating   = "heartbeat"
	listening = "listening for notices of other processes"
)

// serverOutage is a way in which a server fails all of the time from begin to end.
type serverOutage struct {
	parameters string // of the URL
	payload    func() []byte
	begin, end func(*outageTest)
	fails      []string              // what notices
	tries      func(*outageTest) int // grows with what is tried in vain
}

// While the database is away, publishing says that nothing was written, and
// every part of the bus tries again and says so once. When it is back, all of
// them go on by themselves and nothing is lost.
func TestAnOutageIsSaidOnceAndLosesNothing(t *testing.T) {
	everything := []string{claiming, finishing, beating, listening}
	tables := []string{claiming, finishing, beating}
	for name, o := range map[string]serverOutage{
		"stopped": {
			begin: func(o *outageTest) { o.server.Stop() },
			end:   func(o *outageTest) { o.server.Start() },
			fails: everything,
			tries: func(o *outageTest) int { return int(o.dials.Load()) },
		},
		"failed over to a standby, which is then promoted": {
			begin: func(o *outageTest) {
				o.server.Stop()
				require.NoError(o.t, os.WriteFile(filepath.Join(o.server.Data(), "standby.signal"), nil, 0o644))
				o.server.Start()
			},
			end:   func(o *outageTest) { o.server.Exec(`SELECT pg_promote()`) },
			fails: everything,
			tries: func(o *outageTest) int { return o.server.Logged("read-only transaction") },
		},
		"read-only by configuration": {
			begin: func(o *outageTest) {
				o.server.Exec(`ALTER SYSTEM SET default_transaction_read_only = on`, `SELECT pg_reload_conf()`)
			},
			end: func(o *outageTest) {
				o.server.Exec(`ALTER SYSTEM RESET default_transaction_read_only`, `SELECT pg_reload_conf()`)
			},
			fails: tables,
			tries: func(o *outageTest) int { return o.server.Logged("read-only transaction") },
		},
		"too many connections": {
			begin: func(o *outageTest) {
				const n = 3 // all that the role may have, and others have them
				others := testdb.Open(o.t, o.server.URL+"&application_name=others")
				for range n {
					conn, err := others.Conn(o.t.Context())
					require.NoError(o.t, err)
					o.t.Cleanup(func() { _ = conn.Close() })
				}
				o.server.Exec(fmt.Sprintf(`ALTER ROLE app CONNECTION LIMIT %d`, n),
					`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND application_name <> 'others'`)
			},
			end:   func(o *outageTest) { o.server.Exec(`ALTER ROLE app CONNECTION LIMIT -1`) },
			fails: everything,
			tries: func(o *outageTest) int { return o.server.Logged("too many connections for role") },
		},
		"statement timeout": {
			parameters: "&statement_timeout=400",
			begin: func(o *outageTest) {
				lock, err := o.server.Admin.BeginTx(o.t.Context(), nil)
				require.NoError(o.t, err)
				_, err = lock.Exec(`LOCK TABLE reprise.events, reprise.handler_runs, reprise.instances IN ACCESS EXCLUSIVE MODE`)
				require.NoError(o.t, err)
				o.unlock = lock.Rollback
			},
			end:   func(o *outageTest) { require.NoError(o.t, o.unlock()) },
			fails: tables,
			tries: func(o *outageTest) int { return o.server.Logged("due to statement timeout") },
		},
		"disk full": {
			payload: incompressible,
			begin:   func(o *outageTest) { o.fillDisk() },
			end:     func(o *outageTest) { o.freeDisk() },
			tries:   func(o *outageTest) int { return o.server.Logged("No space left on device") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newOutageTest(t, o).run()
		})
	}
}

// The server dies in the middle of everything, twice. Whatever publishing said
// is true afterwards, and every run ends.
func TestACrashOfTheServerUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	o := newOutageTest(t, serverOutage{})
	var working, publishing sync.WaitGroup
	for range 4 {
		working.Go(o.handleAll)
	}
	stop := make(chan struct{})
	for p := range 8 {
		publishing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				publish := o.publish
				if p%4 == 3 {
					publish = o.publishInTx
				}
				if publish() != written {
					time.Sleep(time.Millisecond) // there is no hurry while it is away
				}
			}
		})
	}
	for range 2 {
		goOn := o.count(written) + 200
		require.Eventually(t, func() bool { return o.count(written) >= goOn }, patience, time.Millisecond)
		failed := o.count(unwritten) + o.count(unknown)
		o.server.Crash()
		require.Eventually(t, func() bool { return o.count(unwritten)+o.count(unknown) > failed+8 }, patience, time.Millisecond)
		o.server.Start()
	}
	goOn := o.count(written) + 200
	require.Eventually(t, func() bool { return o.count(written) >= goOn }, patience, time.Millisecond)
	close(stop)
	publishing.Wait()
	t.Logf("%d written, %d not, %d nobody knew", o.count(written), o.count(unwritten), o.count(unknown))
	require.NotZero(t, o.count(unwritten))
	o.requireAllEnded()
	o.requireTruth()
	require.NoError(t, o.ps.Close())
	working.Wait()
}

// database/sql runs a statement again whose connection was lost. That the
// second is refused says nothing of the first.
func TestARefusalAfterALostAnswerSaysThatNobodyKnows(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	direct := testkit.OpenStore(t, address)
	link := testdb.NewLink(t, address)
	ps := configured(t, testkit.OpenStore(t, link.URL), pubsub.Config{})
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("warm")))

	sent, failed := newMessage("x"), make(chan error, 1)
	release := holdID(t, direct, sent.UUID)
	go func() { failed <- ps.Publisher().Publish("topic", sent) }()
	waitForTransactionLock(t, direct, 1)
	admit := refuseConnections(t, address)
	link.Cut()
	err := testkit.Receive(t, failed)
	admit()
	release()
	require.Eventually(t, func() bool {
		_, err := direct.Event(t.Context(), "topic", sent.UUID)
		return err == nil
	}, patience, time.Millisecond, "the first was committed")
	var refusal *pq.Error
	require.ErrorAs(t, err, &refusal)
	require.EqualValues(t, "55000", refusal.Code, "the database accepts no connections")
	require.ErrorContains(t, err, "may have been written")
}

// A claim whose answer is lost, and which is committed all the same, holds
// nothing for ever: whether what database/sql sends after it is refused or not.
func TestAClaimThatOutlivesItsConnectionLosesNoRun(t *testing.T) {
	t.Parallel()
	for _, refused := range []bool{false, true} {
		t.Run(fmt.Sprintf("refused=%v", refused), func(t *testing.T) {
			t.Parallel()
			address := testdb.Postgres(t)
			direct := testkit.OpenStore(t, address)
			elsewhere := configured(t, direct, pubsub.Config{})
			link := testdb.NewLink(t, address)
			ps := configured(t, testkit.OpenStore(t, link.URL), pubsub.Config{PollInterval: 20 * time.Millisecond, HeartbeatInterval: 200 * time.Millisecond})
			messages := subscribe(t, ps, "topic", "handler")
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("warm")))
			testkit.Receive(t, messages).Ack()
			testkit.WaitForStatus(t, direct, "handler", store.Success, 1)

			tx, err := direct.DB().BeginTxx(t.Context(), nil) // whoever leases waits
			require.NoError(t, err)
			tx.MustExec(`SELECT FROM reprise.instances FOR UPDATE`)
			sent := newMessage("x")
			require.NoError(t, elsewhere.Publisher().Publish("topic", sent))
			require.Eventually(t, func() bool { return claimsUnderWay(direct) == 1 }, patience, time.Millisecond)
			admit, again := func() {}, 1
			if refused {
				admit, again = refuseConnections(t, address), 3 // the first of them has been refused by then
			}
			link.Cut()
			require.Eventually(t, func() bool { return link.Connections() >= again }, patience, time.Millisecond, "it is tried again")
			admit()
			require.NoError(t, tx.Commit())
			msg := testkit.Receive(t, messages)
			require.Equal(t, sent.UUID, msg.UUID)
			msg.Ack()
			testkit.WaitForStatus(t, direct, "handler", store.Success, 2)
		})
	}
}

// When the network swallows everything, nobody waits for longer than he wants.
func TestACallerDoesNotWaitForANetworkThatSwallowsEverything(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	direct := testkit.OpenStore(t, address)
	swamp, through := newSwamp(t, address)
	ps := configured(t, testkit.OpenStore(t, through), pubsub.Config{})
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("warm")))
	drain := sync.OnceFunc(swamp.drain)
	t.Cleanup(drain)
	swamp.fill()

	// publish gives up as soon as the situation has arisen.
	publish := func(arisen func() bool, messages ...*message.Message) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() {
			messages[0].SetContext(ctx)
			ended <- ps.Publisher().Publish("topic", messages...)
		}()
		require.Eventually(t, arisen, patience, time.Millisecond)
		cancel()
		err := testkit.Receive(t, ended)
		require.ErrorIs(t, err, context.Canceled)
		return err
	}
	stuck := func(n int64) func() bool { return func() bool { return swamp.stuck.Load() == n } }
	underWay := []*message.Message{newMessage("x"), newMessage("x")} // one for each of the writers
	for i, msg := range underWay {
		require.ErrorContains(t, publish(stuck(int64(i+1)), msg), "may have been written")
	}
	queued := newMessage("x")
	require.ErrorContains(t, publish(func() bool { return ps.Gathered() == 1 }, queued), "nothing was written")
	large := make([]*message.Message, 2001) // more than a statement takes
	for i := range large {
		large[i] = newMessage("large")
	}
	err := publish(stuck(3), large...)

	drain()
	for _, msg := range underWay {
		require.Eventually(t, func() bool {
			_, err := direct.Event(t.Context(), "topic", msg.UUID)
			return err == nil
		}, patience, time.Millisecond)
	}
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("after all of them")))
	require.NoError(t, ps.Close())
	_, missing := direct.Event(t.Context(), "topic", queued.UUID)
	require.ErrorIs(t, missing, store.ErrNotFound)
	require.Error(t, err)
	if strings.Contains(err.Error(), "nothing was written") {
		testkit.RequireCount(t, direct, "events", 1+len(underWay)+1)
	}
}

// A statement of many callers that times out fails for all of them at once: to
// try each alone would make the last wait for all the timeouts.
func TestATimeoutIsNotTriedAgainForEachCaller(t *testing.T) {
	t.Parallel()
	server := testdb.NewServer(t)
	st := testkit.OpenStore(t, server.URL+"&statement_timeout=300")
	ps := configured(t, st, pubsub.Config{})
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("warm")))
	lock, err := server.Admin.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = lock.Exec(`LOCK TABLE reprise.events IN EXCLUSIVE MODE`)
	require.NoError(t, err)

	const callers = 30
	var calls sync.WaitGroup
	for range callers {
		calls.Go(func() {
			if err := ps.Publisher().Publish("topic", newMessage("x")); err == nil || !strings.Contains(err.Error(), "57014") {
				t.Errorf("want a timeout, got %v", err)
			}
		})
	}
	calls.Wait()
	require.NoError(t, lock.Rollback())
	require.Less(t, server.Logged("due to statement timeout"), callers/2)
	testkit.RequireCount(t, st, "events", 1)
}

// Nor is the search for dead instances an exception: it says once that it fails.
func TestALongSearchForTheDeadIsSaidOnce(t *testing.T) {
	t.Parallel()
	address := testdb.Postgres(t)
	st := testkit.OpenStore(t, address)
	log := &logged{to: slog.NewTextHandler(t.Output(), nil)}
	ps, err := pubsub.New(testkit.OpenStore(t, address+"&lock_timeout=20"), pubsub.Config{
		HeartbeatInterval: 200 * time.Millisecond, DeadAfter: 30 * time.Second, Logger: slog.New(log),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ps.Close()) })
	require.NoError(t, queue.Of(st).Subscribe(t.Context(), store.Subscription{Topic: "topic", Handler: "handler"}, ""))
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
	require.NoError(t, queue.Of(st).Register(t.Context(), store.Instance{ID: "dead", HeartbeatInterval: 20 * time.Millisecond, DeadAfter: 200 * time.Millisecond}))
	claimed, err := queue.Of(st).Claim(t.Context(), queue.Claimant{Instance: "dead"}, []queue.Want{{Topic: "topic", Handler: "handler", N: 1}})
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	lock, err := st.DB().BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	lock.MustExec(`LOCK TABLE reprise.run_attempts IN ACCESS EXCLUSIVE MODE`) // what only failures need

	messages := subscribe(t, ps, "topic", "handler")
	require.Eventually(t, func() bool { return log.lines() > 0 }, patience, time.Millisecond)
	var beats int // each is followed by a search
	for last := ""; beats < 10; {
		var at string
		require.NoError(t, st.DB().GetContext(t.Context(), &at, `SELECT heartbeat_at::text FROM reprise.instances WHERE id <> 'dead'`))
		if at != last {
			beats, last = beats+1, at
		}
	}
	log.requireOnce(t, "taking over from dead instances", "fails")
	require.NoError(t, lock.Rollback())
	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 1)
}

// SQLite says itself when it may not grow any more.
func TestAFullSQLiteFileSaysThatNothingWasWritten(t *testing.T) {
	t.Parallel()
	st := testkit.OpenStore(t, testdb.SQLite(t))
	ps := configured(t, st, pubsub.Config{})
	messages := subscribe(t, ps, "topic", "handler")
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("before")))
	before := testkit.Receive(t, messages)
	var pages int
	require.NoError(t, st.DB().Get(&pages, `PRAGMA page_count`))
	_, err := st.DB().Exec(fmt.Sprintf(`PRAGMA max_page_count = %d`, pages))
	require.NoError(t, err)

	large := message.NewMessage(newMessage("").UUID, incompressible())
	err = ps.Publisher().Publish("topic", large)
	require.ErrorContains(t, err, "full")
	require.ErrorContains(t, err, "nothing was written")
	testkit.RequireCount(t, st, "events", 1)

	before.Ack()
	_, err = st.DB().Exec(`PRAGMA max_page_count = 1000000`)
	require.NoError(t, err)
	require.NoError(t, ps.Publisher().Publish("topic", large))
	testkit.Receive(t, messages).Ack()
	testkit.WaitForStatus(t, st, "handler", store.Success, 2)
}

// Another process that holds SQLite's write lock is waited for: by a caller as
// long as its context allows, by the bus for ever, and by a statement for the
// busy_timeout.
func TestALockedSQLiteFileIsWaitedFor(t *testing.T) {
	t.Parallel()
	address := testdb.SQLite(t)
	st := testkit.OpenStore(t, address)
	log := &logged{to: slog.NewTextHandler(t.Output(), nil)}
	ps, err := pubsub.New(st, pubsub.Config{HeartbeatInterval: 20 * time.Millisecond, Logger: slog.New(log)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ps.Close()) })
	messages := subscribe(t, ps, "topic", "handler")
	other := testdb.Open(t, address)
	lock := func() (unlock func()) {
		tx, err := other.BeginTx(t.Context(), nil) // with the write lock
		require.NoError(t, err)
		return func() { require.NoError(t, tx.Rollback()) }
	}

	unlock := lock()
	patient, ended := newMessage("x"), make(chan error, 1)
	go func() { ended <- ps.Publisher().Publish("topic", patient) }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	hurried := newMessage("x")
	hurried.SetContext(ctx)
	err = ps.Publisher().Publish("topic", hurried)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "written")
	require.Empty(t, ended, "it still waits")
	nothing := strings.Contains(err.Error(), "nothing was written")
	unlock()
	require.NoError(t, testkit.Receive(t, ended))
	for range map[bool]int{true: 1, false: 2}[nothing] {
		testkit.Receive(t, messages).Ack()
	}
	_, err = st.Event(t.Context(), "topic", hurried.UUID)
	require.Equal(t, nothing, errors.Is(err, store.ErrNotFound))

	_, err = st.DB().Exec(`PRAGMA busy_timeout = 10`)
	require.NoError(t, err)
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("in flight")))
	inFlight := testkit.Receive(t, messages)
	unlock = lock()
	err = ps.Publisher().Publish("topic", newMessage("x"))
	require.ErrorContains(t, err, "database is locked")
	require.ErrorContains(t, err, "nothing was written")
	inFlight.Ack()
	for _, part := range []string{finishing, beating} {
		log.requireOnce(t, part, "fails")
	}
	unlock()
	for _, part := range []string{finishing, beating} {
		log.requireOnce(t, part, "works again")
	}
	require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
	testkit.Receive(t, messages).Ack()
	require.Eventually(t, func() bool {
		runs, err := st.Runs(t.Context(), store.Filter{Status: store.Success})
		return err == nil && len(runs) == map[bool]int{true: 3, false: 4}[nothing]
	}, patience, time.Millisecond)
}

// What proves that a statement had no effect, and what does not.
func TestWhichErrorsProveThatNothingWasWritten(t *testing.T) {
	state := func(code string) error { return &pq.Error{Severity: "ERROR", Code: pqerror.Code(code)} }
	fatal := func(code string) error { return &pq.Error{Severity: "FATAL", Code: pqerror.Code(code)} }
	for name, err := range map[string]error{
		"read-only":         state("25006"),
		"unique violation":  state("23505"),
		"deadlock":          state("40P01"),
		"disk full":         state("53100"),
		"out of memory":     state("53200"),
		"lock timeout":      state("55P03"),
		"statement timeout": state("57014"),
		"no permission":     state("42501"),
		"an id that is taken, by a server that speaks German": &pq.Error{Severity: "FEHLER", Code: "RP001"},
		"unique violation, in German":                         &pq.Error{Severity: "FEHLER", Code: "23505"},
		"statement timeout, in French":                        &pq.Error{Severity: "ERREUR", Code: "57014"},
		"deadlock, by pgx, in German":                         &pgconn.PgError{Severity: "FEHLER", Code: "40P01"},
	} {
		require.True(t, sqldb.Refused(fmt.Errorf("wrapped: %w", err)), name)
	}
	for name, err := range map[string]error{
		"connection failure, by a pooler":                             state("08006"),
		"protocol violation, by a pooler":                             state("08P01"),
		"completion unknown":                                          state("40003"),
		"disk full, by a server that speaks German and may fall over": &pq.Error{Severity: "FEHLER", Code: "53100"},
		"terminated, by a server that speaks Russian":                 &pq.Error{Severity: "ВАЖНО", Code: "57P01"},
		"idle in a transaction for too long":                          state("25P03"),
		"no permission to connect any more":                           fatal("42501"),
		"terminated":                                                  fatal("57P01"),
		"crash of another server process":                             fatal("57P02"),
		"starting up, after a sending":                                fatal("57P03"),
		"no connections, after a sending":                             fatal("53300"),
		"the server panics as it commits":                             &pq.Error{Severity: "PANIC", Code: "53100"},
		"connection lost":                                             driver.ErrBadConn,
		"connection lost, by the network":                             &net.OpError{Op: "read", Err: io.ErrUnexpectedEOF},
		"a dial, perhaps after a sending":                             &net.OpError{Op: "dial", Err: errors.New("connection refused")},
		"the context ended, nobody knows":                             context.Canceled,
		"the pool is closed, nobody knows":                            errors.New("sql: database is closed"),
		"terminated, by pgx, in Italian":                              &pgconn.PgError{Severity: "FATALE", Code: "57P01"},
		"the server panics, in German":                                &pq.Error{Severity: "PANIK", Code: "53100"},
	} {
		require.False(t, sqldb.Refused(fmt.Errorf("wrapped: %w", err)), name)
	}
}
