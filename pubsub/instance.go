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

// This file keeps the process alive for the others. Two loops do it, so that a slow
// look at the tables delays no heartbeat:
//
//   - heartbeatLoop writes the heartbeats of the current identity and of former ones,
//     on a connection of its own. identity.go says what an identity is.
//   - lookLoop takes over the runs of dead instances and, more rarely, surveys the
//     tables: it notes the newest run, subscribes again where a subscription is gone,
//     and counts failures.

func (p *PubSub) describe(id string, handlers []string) store.Instance {
	host, _ := os.Hostname() // "" is honest
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
	// gather is how long a heartbeat that tells of a new handler waits for others.
	gather = 20 * time.Millisecond
	// surveyEvery is how many heartbeats there are to a look at the tables.
	surveyEvery = 2
)

// heartbeatLoop keeps this instance alive, and has lookLoop look around.
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
	var soon <-chan time.Time // after one that failed: others judge by those that came
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-soon:
		case <-p.serve: // whoever looks for somebody who serves a handler finds us soon
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
			default: // the one before is under way; another heartbeat will ask again
			}
		}
	}
}

// look is what a heartbeat asks for: to take over from dead instances, and to look
// at the tables.
type look struct{ others, survey bool }

// lookLoop looks around until ctx ends. It is no part of heartbeatLoop: its
// statements may wait for a table that somebody has locked, and longer than their
// context says. lib/pq asks the server once to cancel a statement, and if the server
// has not begun with it by then, nothing comes of it.
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
			if err := p.survey(brief); err == nil || sqldb.Answered(err) && !sqldb.Transient(err) { // when the database is away, others say so
				surveying.Report(ctx, err)
			}
		}
		cancel()
	}
}

// heart is what the heartbeat loop remembers.
type heart struct {
	pubsub *PubSub
	conn   *sql.Conn // kept for heartbeats: the pool may be busy for longer than others wait; nil: the pool does
	silent int       // heartbeats since a claim went well, that were too many
	stuck  bool      // it was said that nothing can be claimed
	unable bool      // what failing said last
}

// connectionsToSpare is how many connections a pool must allow for one to be kept
// for heartbeats.
const connectionsToSpare = 4

// connect takes a connection from the pool, unless the pool has few.
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
		_ = h.conn.Close() // it goes back to the pool, or is lost anyway
		h.conn = nil
	}
}

// beatAll tells the database that the instance is alive, under each of its
// identities, which runs it holds and what it serves. It says whether other
// instances are silent.
//
// A claim that the database holds up, or work that an identity in doubt makes,
// delays the heartbeat only for a moment. Then nothing is said of the runs.
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

// beatFormer does it for identities of before. Not for long: a statement of theirs
// may be stuck in the database, and hold their row.
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

// beat is the heartbeat of one identity; quiet says that nothing is being claimed.
// An identity is in doubt when others have taken it for dead, and when the
// database knows of a claim of its that it does not know of.
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

// failing says whether this process cannot claim: at two heartbeats in a row it has
// not been able to for longer than it waits between two claims. One is no sign: the
// process may have slept, and the heartbeat be the first to go on.
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

// survey looks which runs there are, so that whoever recovers this instance need
// not look at older ones, whether its subscriptions are still there, and whether
// there are failures to count.
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

// countFailures counts failures for a moment; what is left is counted after the next
// survey, or by others.
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
