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

// quiet is how long a process waits between two notices: what others miss of
// one they find by the next.
const quiet = 5 * time.Millisecond

// announce tells this process and the others that runs are due.
func (p *PubSub) announce(inserted queue.Inserted) {
	if inserted.Due > 0 {
		signal(p.wake)
		p.notifier.soon()
	}
}

// announceTx does it for runs that are due when the caller's transaction
// commits: the notice is part of the transaction.
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

// notifier sends notices to the other processes on the database. Its goroutine
// lives as long as one is to be sent.
type notifier struct {
	send func(ctx context.Context) error // nil where nobody can be told

	mu      sync.Mutex
	last    time.Time
	pending bool

	notices sync.RWMutex // held for reading while one is on its way
}

func (p *PubSub) newNotifier(notify func(ctx context.Context, q sqldb.Execer, from string) error) *notifier {
	if !p.db.Notifies() || p.config.SkipNotify {
		return &notifier{}
	}
	return &notifier{send: func(ctx context.Context) error { return notify(ctx, p.store.DB(), p.origin) }}
}

// soon sends a notice as soon as one may be sent, and does not wait for it. One
// that fails is none: the others poll.
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

// wait returns when what is on its way has been sent; others may go on to
// publish meanwhile.
func (n *notifier) wait() {
	n.notices.Lock()
	defer n.notices.Unlock()
}

// listenLoop wakes the claimer when another process has something due, and the
// relay when one has something to be sent. The
// listener connects again by itself; what was missed meanwhile is looked for.
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
	listening.Go(func() { _ = listener.Listen(p.db.Channel()) }) // returns once connected, or closed
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-listener.Notify:
			if n == nil { // it was disconnected
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
