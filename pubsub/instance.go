package pubsub

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// This file writes the heartbeats of this process. Two loops do it, so that a slow
// statement delays no heartbeat:
//
//   - heartbeatLoop writes the heartbeats of the current identity and of former ones, on
//     a connection of its own. identity.go says what an identity is.
//   - lookLoop takes over the runs of dead instances. Less often, it surveys the tables:
//     it notes the newest run, subscribes again where a subscription is gone, and counts
//     failures.

func (p *PubSub) describe(id string, handlers []string) store.Instance {
	host, _ := os.Hostname() // "" when the host name is unknown
	i := store.Instance{
		ID: id, Host: host, PID: os.Getpid(), Handlers: handlers,
		HeartbeatInterval: p.config.HeartbeatInterval, DeadAfter: p.config.DeadAfter,
	}
	if build, ok := debug.ReadBuildInfo(); ok {
		i.Build = build.Main.Version
	}
	return i
}

const (
	// gather is how long a heartbeat for a new handler waits for more new handlers.
	gather = 20 * time.Millisecond
	// surveyEvery is how many heartbeats there are for each survey of the tables.
	surveyEvery = 2
)

// heartbeatLoop sends the heartbeats of this instance and tells lookLoop what to do.
func (p *PubSub) heartbeatLoop(ctx context.Context) {
	looks := make(chan look, 1)
	var looking sync.WaitGroup
	looking.Go(func() { p.lookLoop(ctx, looks) })
	defer looking.Wait()
	ticker := time.NewTicker(p.config.HeartbeatInterval)
	defer ticker.Stop()
	h := &heart{pubsub: p}
	defer h.disconnect()
	health := outage.Outage{What: "heartbeat", Log: p.config.Logger}
	var soon <-chan time.Time // retry after a failed heartbeat: other instances judge by successful ones
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-soon:
		case <-p.serve: // other processes must soon see that this one serves a new handler
			select {
			case <-ctx.Done():
				return
			case <-time.After(gather):
			}
		}
		beat, cancel := context.WithTimeout(ctx, p.config.DeadAfter/2)
		others, err := h.beatAll(beat)
		health.Report(ctx, err)
		if soon = nil; err != nil {
			soon = time.After(p.config.HeartbeatInterval / 4)
		}
		cancel()
		if l := (look{others, err == nil && n%surveyEvery == 0}); l != (look{}) {
			select {
			case looks <- l:
			default: // the last look is under way; another heartbeat will ask again
			}
		}
	}
}

// look is a request of a heartbeat: to take over from dead instances, and to survey the
// tables.
type look struct{ others, survey bool }

// lookLoop takes over and surveys until ctx ends. It is not part of heartbeatLoop,
// because its statements may wait for a locked table longer than their context allows.
// lib/pq asks the server only once to cancel a statement, and the request has no effect
// if the server has not begun the statement.
func (p *PubSub) lookLoop(ctx context.Context, looks <-chan look) {
	surveying := outage.Outage{What: "looking at the tables", Log: p.config.Logger}
	recovering := outage.Outage{What: "taking over from dead instances", Log: p.config.Logger}
	for {
		var l look
		select {
		case <-ctx.Done():
			return
		case l = <-looks:
		}
		brief, cancel := context.WithTimeout(ctx, p.config.DeadAfter/2)
		if l.others {
			recovering.Report(ctx, p.recoverDead(brief))
		}
		if l.survey {
			if err := p.survey(brief); err == nil || sqldb.Answered(err) && !sqldb.Transient(err) { // other loops log that the database is away
				surveying.Report(ctx, err)
			}
		}
		cancel()
	}
}

// heart is the state of the heartbeat loop.
type heart struct {
	pubsub *PubSub
	conn   *sql.Conn // connection for heartbeats, since the pool may be busy for too long; nil: use the pool
	silent int       // heartbeats in a row without a recent claim
	stuck  bool      // it was logged that nothing can be claimed
	unable bool      // last result of failing
}

// connectionsToSpare is the smallest connection limit of a pool at which one connection
// is kept for heartbeats.
const connectionsToSpare = 4

// connect takes a connection from the pool, unless the pool has too few.
func (h *heart) connect(ctx context.Context) error {
	pool := h.pubsub.store.DB()
	if most := pool.Stats().MaxOpenConnections; h.conn != nil || h.pubsub.db.OneWriter() || most > 0 && most < connectionsToSpare {
		return nil
	}
	conn, err := pool.Conn(ctx)
	if err == nil {
		h.conn = conn
	}
	return err
}

func (h *heart) disconnect() {
	if h.conn != nil {
		_ = h.conn.Close() // returns it to the pool, or it is lost anyway
		h.conn = nil
	}
}

// beatAll sends a heartbeat for each identity of the instance, with the runs that it
// holds and the handlers that it serves. It reports whether other instances are silent.
//
// A claim that the database holds up, or the work for an identity in doubt, delays the
// heartbeat for a moment only. Then the heartbeat does not report the runs.
func (h *heart) beatAll(ctx context.Context) (others bool, err error) {
	p := h.pubsub
	h.unable = h.failing()
	brief, cancel := context.WithTimeout(ctx, p.config.aside())
	defer cancel()
	quiet := p.claiming.lock(brief) == nil
	if quiet {
		defer p.claiming.unlock()
		err = p.renew(brief)
	}
	others, beaten := h.beat(ctx, p.identity(), quiet)
	if beaten != nil {
		return false, beaten
	}
	if quiet && err == nil {
		after, cancel := context.WithTimeout(ctx, p.config.aside())
		defer cancel()
		err = p.renew(after)
	}
	return others, errors.Join(err, h.beatFormer(ctx, quiet))
}

// beatFormer sends the heartbeats of former identities, for a short time only: a stuck
// statement of theirs may hold their rows locked.
func (h *heart) beatFormer(ctx context.Context, quiet bool) error {
	p := h.pubsub
	p.mu.Lock()
	former := slices.Clone(p.former)
	p.mu.Unlock()
	if len(former) == 0 {
		return nil
	}
	brief, cancel := context.WithTimeout(ctx, p.config.aside()/2)
	defer cancel()
	for _, i := range former {
		if _, err := h.beat(brief, i, quiet); err != nil && brief.Err() == nil {
			return err
		}
	}
	if !quiet {
		return nil
	}
	if err := p.retire(brief); err != nil && brief.Err() == nil {
		return err
	}
	return nil
}

// beat sends the heartbeat of one identity. quiet means that nothing is being claimed.
// The identity is in doubt if other instances took it for dead, or if the database knows
// of a claim that the identity does not know.
func (h *heart) beat(ctx context.Context, i *identity, quiet bool) (others bool, err error) {
	p := h.pubsub
	beat := queue.HeartbeatReport{Failing: h.unable, Handlers: p.serving()}
	p.mu.Lock()
	gone, claims := i.gone, i.claims
	if quiet {
		beat.Holding = i.holding()
	}
	p.mu.Unlock()
	if gone {
		return false, nil
	}
	if err := h.connect(ctx); err != nil {
		return false, err
	}
	pulse, err := p.queue.Heartbeat(ctx, h.conn, i.id, beat)
	switch {
	case errors.Is(err, queue.ErrInstanceGone):
		p.config.Logger.Error("this instance was silent for so long that others took over its runs; it goes on with new ones, as another", "instance", i.id)
		p.mu.Lock()
		i.gone, i.doubtful = true, true
		p.mu.Unlock()
		return false, nil
	case err != nil:
		h.disconnect()
	case quiet && pulse.Claims != claims:
		p.doubt(i)
	}
	return pulse.Others, err
}

// failing reports whether this process cannot claim: at two heartbeats in a row the last
// claim was longer ago than PollInterval plus HeartbeatInterval. One heartbeat is not
// enough: after a suspend the heartbeat may be the first to continue.
func (h *heart) failing() bool {
	p := h.pubsub
	silent := time.Since(time.Unix(0, p.claimed.Load()))
	if silent <= p.config.PollInterval+p.config.HeartbeatInterval {
		h.silent, h.stuck = 0, false
		return false
	}
	if h.silent++; h.silent < 2 {
		return false
	}
	if silent > p.config.DeadAfter+p.config.PollInterval && !h.stuck {
		h.stuck = true
		p.config.Logger.Error("this process has not been able to claim due runs for too long: it counts as serving no handler until it can", "for", silent.Round(time.Millisecond))
	}
	return true
}

func (p *PubSub) recoverDead(ctx context.Context) error {
	dead, err := p.queue.Recover(ctx, p.identity().id)
	for _, id := range dead {
		p.config.Logger.Warn("instance is dead: its runs are due again", "instance", id)
	}
	if len(dead) > 0 {
		signal(p.wake)
	}
	return err
}

// survey notes the newest run, so that a recovery of this instance need not read older
// ones. It subscribes again if subscriptions are missing, and counts failures if some are
// uncounted.
func (p *PubSub) survey(ctx context.Context) error {
	found, err := p.queue.Survey(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.current.saw(found.Newest)
	known := p.surveyed
	p.mu.Unlock()
	if found.Uncounted {
		if err := p.countFailures(ctx); err != nil {
			return err
		}
	}
	if found.Subscriptions == known {
		return nil
	}
	if err := p.subscribeAgain(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	p.surveyed = found.Subscriptions
	p.mu.Unlock()
	return nil
}

// countFailures counts failures for a short time. The rest is counted after the next
// survey, or by other processes.
func (p *PubSub) countFailures(ctx context.Context) error {
	brief, cancel := context.WithTimeout(ctx, p.config.aside())
	defer cancel()
	for more := true; more; {
		var err error
		if more, err = operate.On(p.store).CountFailures(brief); err != nil {
			if brief.Err() != nil {
				return nil
			}
			return err
		}
	}
	return nil
}
