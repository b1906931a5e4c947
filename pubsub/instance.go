package pubsub

import (
	"context"
	"errors"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/internal/outage"
	"github.com/reprise-bus/reprise/store"
)

func (p *PubSub) describe(id string, handlers []string) store.Instance {
	host, _ := os.Hostname() // "" is honest
	i := store.Instance{ID: id, Host: host, PID: os.Getpid(), Handlers: handlers}
	if build, ok := debug.ReadBuildInfo(); ok {
		i.Build = build.Main.Version
	}
	return i
}

// gather is how long a heartbeat that tells of a new handler waits for others.
const gather = 20 * time.Millisecond

// heartbeatLoop keeps this instance alive and takes over from dead ones. It
// judges others only after it has been in good health itself for as long as
// they have been silent: when the database comes back after an outage, nobody
// has a fresh heartbeat.
func (p *PubSub) heartbeatLoop(ctx context.Context) {
	ticker := time.NewTicker(p.config.HeartbeatInterval)
	defer ticker.Stop()
	health := outage.Outage{What: "heartbeat", Log: p.config.Logger}
	recovering := outage.Outage{What: "taking over from dead instances", Log: p.config.Logger}
	healthySince := time.Now()
	var announced []string
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-p.serve: // whoever looks for somebody who serves a handler finds us soon
			select {
			case <-ctx.Done():
				return
			case <-time.After(gather):
			}
		}
		handlers := p.serving()
		beat, cancel := context.WithTimeout(ctx, p.config.DeadAfter/2)
		others, err := p.heartbeat(beat, handlers, !slices.Equal(handlers, announced))
		health.Report(ctx, err)
		if err != nil {
			healthySince = time.Now()
		} else {
			announced = handlers
		}
		if time.Since(healthySince) >= p.config.DeadAfter {
			if others {
				err = p.recoverDead(beat)
			}
			recovering.Report(ctx, err)
		}
		cancel()
	}
}

// heartbeat tells the database that the instance is alive and where the runs
// that it holds begin; and what it serves, when that is new. It says whether
// other instances are silent.
func (p *PubSub) heartbeat(ctx context.Context, handlers []string, announce bool) (others bool, err error) {
	p.claiming.Lock()
	defer p.claiming.Unlock()
	if err := p.settle(ctx); err != nil {
		return false, err
	}
	if others, err = p.beat(ctx, p.identity(), handlers, announce); err != nil {
		return false, err
	}
	if err := p.settle(ctx); err != nil {
		return others, err
	}
	p.mu.Lock()
	former := slices.Clone(p.former)
	p.mu.Unlock()
	if len(former) == 0 {
		return others, nil
	}
	// Not for long: a statement of a former identity's may be stuck in the
	// database, and hold its row.
	brief, cancel := context.WithTimeout(ctx, p.config.HeartbeatInterval/4)
	defer cancel()
	for _, i := range former {
		if _, err := p.beat(brief, i, handlers, false); err != nil && brief.Err() == nil {
			return others, err
		}
	}
	if err := p.retire(brief); err != nil && brief.Err() == nil {
		return others, err
	}
	return others, nil
}

// beat is the heartbeat of one identity. An identity is in doubt when others
// have taken it for dead, and when the database knows of a claim of its that it
// does not know of.
func (p *PubSub) beat(ctx context.Context, i *identity, handlers []string, announce bool) (others bool, err error) {
	if i.gone {
		return false, nil
	}
	p.mu.Lock()
	lowest := i.lowest()
	p.mu.Unlock()
	if announce {
		if err := p.store.Register(ctx, p.describe(i.id, handlers)); err != nil {
			return false, err
		}
	}
	pulse, err := p.store.Heartbeat(ctx, i.id, lowest, p.config.DeadAfter)
	switch {
	case errors.Is(err, store.ErrInstanceGone):
		p.config.Logger.Error("this instance was silent for so long that others took over its runs; it goes on with new ones, as another", "instance", i.id)
		i.gone = true
		p.doubt(i)
		return false, nil
	case err == nil && pulse.Claims != i.claims:
		p.doubt(i)
	}
	return pulse.Others, err
}

func (p *PubSub) recoverDead(ctx context.Context) error {
	dead, err := p.store.Recover(ctx, p.config.DeadAfter)
	if err != nil {
		return err
	}
	for _, id := range dead {
		p.config.Logger.Warn("instance is dead: its runs are due again", "instance", id)
	}
	if len(dead) > 0 {
		signal(p.wake)
	}
	return nil
}
