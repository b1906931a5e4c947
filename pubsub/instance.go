package pubsub

import (
	"context"
	"errors"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/store"
)

func (p *PubSub) describe(handlers []string) store.Instance {
	host, _ := os.Hostname() // "" is honest
	i := store.Instance{ID: p.instance, Host: host, PID: os.Getpid(), Handlers: handlers}
	if build, ok := debug.ReadBuildInfo(); ok {
		i.Build = build.Main.Version
	}
	return i
}

// heartbeatLoop keeps this instance alive and takes over from dead ones. It
// judges others only after it has been in good health itself for as long as
// they have been silent: when the database comes back after an outage, nobody
// has a fresh heartbeat.
func (p *PubSub) heartbeatLoop(ctx context.Context) {
	ticker := time.NewTicker(p.config.HeartbeatInterval)
	defer ticker.Stop()
	health := outage{what: "heartbeat", log: p.config.Logger}
	healthySince := time.Now()
	var announced []string
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		p.mu.Lock()
		handlers := p.handlerNames()
		p.mu.Unlock()

		beat, cancel := context.WithTimeout(ctx, p.config.DeadAfter/2)
		var err error
		if slices.Equal(handlers, announced) {
			err = p.store.Heartbeat(beat, p.instance)
		} else {
			err = p.store.Register(beat, p.describe(handlers))
		}
		if errors.Is(err, store.ErrInstanceGone) {
			p.config.Logger.Error("this instance was silent for so long that others took over its runs; it goes on with new ones", "instance", p.instance)
			err = p.store.Register(beat, p.describe(handlers))
		}
		health.report(ctx, err)
		if err != nil {
			healthySince = time.Now()
			cancel()
			continue
		}
		announced = handlers
		if time.Since(healthySince) >= p.config.DeadAfter {
			p.recoverDead(beat)
		}
		cancel()
	}
}

func (p *PubSub) recoverDead(ctx context.Context) {
	dead, err := p.store.Recover(ctx, p.config.DeadAfter)
	if err != nil {
		p.config.Logger.Warn("cannot look for dead instances", "error", err)
		return
	}
	for _, id := range dead {
		p.config.Logger.Warn("instance is dead: its runs are due again", "instance", id)
	}
	if len(dead) > 0 {
		signal(p.wake)
	}
}
