package pubsub

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

// quiet is the shortest time between two notices of a process. A process that misses a
// notice finds the runs by a later one or by polling.
const quiet = 5 * time.Millisecond

// announce tells this and the other processes that runs are due.
func (p *PubSub) announce(inserted queue.Inserted) {
	if inserted.Due > 0 {
		signal(p.wake)
		p.notifier.soon()
	}
}

// announceTx does the same for runs that are due when the caller's transaction commits.
// The notice is part of the transaction.
func (p *PubSub) announceTx(ctx context.Context, tx Tx, inserted queue.Inserted) error {
	if inserted.Due == 0 {
		return nil
	}
	signal(p.nudge)
	if p.config.SkipNotify {
		return nil
	}
	return p.db.Notify(ctx, tx, p.origin)
}

// notifier sends notices to the other processes on the database. Its goroutine lives
// while a notice is waiting.
type notifier struct {
	send func(ctx context.Context) error // nil: notices are not possible or not wanted

	mu      sync.Mutex
	last    time.Time
	pending bool

	notices sync.RWMutex // held for reading while a notice is under way
}

func (p *PubSub) newNotifier(notify func(ctx context.Context, q sqldb.Execer, from string) error) *notifier {
	if !p.db.Notifies() || p.config.SkipNotify {
		return &notifier{}
	}
	return &notifier{send: func(ctx context.Context) error { return notify(ctx, p.store.DB(), p.origin) }}
}

// soon sends a notice as soon as allowed, without waiting. A failed notice is not
// repeated: other processes poll.
func (n *notifier) soon() {
	if n.send == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pending {
		return
	}
	n.pending = true
	wait := quiet - time.Since(n.last)
	n.notices.RLock()
	go func() {
		defer n.notices.RUnlock()
		if wait > 0 {
			time.Sleep(wait)
		}
		n.mu.Lock()
		n.pending, n.last = false, time.Now()
		n.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = n.send(ctx)
	}()
}

// wait returns when the notices under way have been sent. Publishing may go on meanwhile.
func (n *notifier) wait() {
	n.notices.Lock()
	defer n.notices.Unlock()
}

// listenLoop wakes the claimer when another process has made runs due, and the relay when
// another process has something to send. The listener reconnects by itself. After each
// reconnect both are woken, since notices may have been lost.
func (p *PubSub) listenLoop(ctx context.Context) {
	health := outage.Outage{What: "listening for notices of other processes", Log: p.config.Logger}
	listener := pq.NewListener(p.config.ListenURL, 100*time.Millisecond, 10*time.Second, func(event pq.ListenerEventType, err error) {
		switch event {
		case pq.ListenerEventConnected, pq.ListenerEventReconnected:
			health.Report(ctx, nil)
		case pq.ListenerEventDisconnected, pq.ListenerEventConnectionAttemptFailed:
			health.Report(ctx, err)
		}
	})
	var listening sync.WaitGroup
	defer listening.Wait()
	defer listener.Close()
	listening.Go(func() { _ = listener.Listen(p.db.Channel()) }) // returns when connected or closed
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-listener.Notify:
			if n == nil { // the connection was lost
				signal(p.wake)
				signal(p.relay)
				continue
			}
			from, outbox := strings.CutSuffix(n.Extra, sqldb.OutboxNotice)
			switch {
			case from == p.origin:
			case outbox:
				signal(p.relay)
			default:
				signal(p.wake)
			}
		}
	}
}
