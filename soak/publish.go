package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/store"
)

// way is how an event is published.
type way string

const (
	wayAlone    way = "alone"    // bus.Publish
	wayHasty    way = "hasty"    // bus.Publish with next to no time
	wayTwice    way = "twice"    // bus.Publish, and again
	wayTogether way = "together" // bus.Publish of two topics at once
	wayTx       way = "tx"       // bus.PublishTx beside a business row
	wayInTx     way = "intx"     // the same in bus.InTx
	wayUndone   way = "undone"   // as wayTx, rolled back
	wayInUndone way = "inundone" // as wayInTx, rolled back
	wayHeld     way = "held"     // as wayTx, in a transaction that is open for seconds before and after
)

// business says whether a business row must stand beside the event.
func (w way) business() bool { return w == wayTx || w == wayInTx || w == wayHeld }

func wayOf(rng *rand.Rand) way {
	n := rng.IntN(100)
	for _, w := range []struct {
		way   way
		below int
	}{
		{wayAlone, 40}, {wayHasty, 45}, {wayTwice, 50}, {wayTogether, 60},
		{wayTx, 74}, {wayInTx, 92}, {wayUndone, 95}, {wayHeld, 97},
	} {
		if n < w.below {
			return w.way
		}
	}
	return wayInUndone
}

// publisher publishes events until it is told to stop, and writes down what it
// knows of each.
type publisher struct {
	bus     *bus.Bus
	journal *journal
	log     *slog.Logger
	brief   bool // no transaction is held: it would be the only writer
}

var errUndone = errors.New("rolled back on purpose")

// run publishes from several goroutines, each a steady number of events in a
// second as far as the database keeps up.
func (p *publisher) run(ctx context.Context, rate float64, seed uint64) {
	const goroutines = 8
	var publishing sync.WaitGroup
	defer publishing.Wait()
	pause := time.Duration(goroutines / rate * float64(time.Second))
	for n := range goroutines {
		rng := rand.New(rand.NewPCG(seed, uint64(n)))
		publishing.Go(func() {
			ticker := time.NewTicker(pause)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
					p.publish(ctx, rng, newOrdered(rng))
				}
			}
		})
	}
}

// publish publishes one event until it knows what became of it, and notes that.
// When ctx ends first, it notes nothing.
func (p *publisher) publish(ctx context.Context, rng *rand.Rand, o Ordered) {
	e := entry{id: o.ID, checksum: "-"}
	if payload, err := json.Marshal(o); err == nil { // as the bus does
		e.checksum = checksum(payload)
	}
	for tries := 0; ctx.Err() == nil; tries++ {
		if o.Way != wayHeld {
			e.begin()
		}
		err := p.once(ctx, rng, o, &e)
		e.ended = time.Now()
		var refused interface{ SQLState() string }
		if errors.As(err, &refused) && refused.SQLState() == "26000" {
			e.lost++
		}
		switch {
		case err == nil:
			e.fact = committed
		case errors.Is(err, errUndone):
			e.fact = absent
		case errors.Is(err, store.ErrDuplicateID):
			e.fact = disputed
		case tries == 0 && nothingWritten(o.Way, err):
			e.fact = absent
			p.log.Info("an error says that nothing was written", "event", o.ID, "way", o.Way, "error", err)
		default:
			p.log.Info("an error leaves it open whether it was written", "event", o.ID, "way", o.Way, "error", err)
			pauseFor(ctx, 50*time.Millisecond)
			continue
		}
		if err := p.journal.write(e); err != nil {
			p.log.Error("the journal takes nothing", "error", err)
		}
		return
	}
}

// nothingWritten says whether the error promises it, as those of bus.Publish
// do that do not say the contrary. An error of a transaction's commit never
// does.
func nothingWritten(w way, err error) bool {
	switch w {
	case wayAlone, wayHasty, wayTwice, wayTogether:
		return !errors.Is(err, bus.ErrMaybeWritten)
	default:
		return false
	}
}

func (p *publisher) once(ctx context.Context, rng *rand.Rand, o Ordered, e *entry) error {
	switch o.Way {
	case wayTogether:
		return p.bus.Publish(ctx, o, Paid{ID: o.ID})
	case wayHasty:
		ctx, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(5000))*time.Microsecond)
		defer cancel()
		return p.bus.Publish(ctx, o)
	case wayTwice:
		if err := p.bus.Publish(ctx, o); err != nil {
			return err
		}
		if err := p.bus.Publish(ctx, o); err != nil {
			return fmt.Errorf("the second time: %w; %w", err, bus.ErrMaybeWritten)
		}
		return nil
	case wayTx, wayUndone:
		return p.inOwnTx(ctx, o)
	case wayHeld:
		return p.held(ctx, rng, o, e)
	case wayInTx, wayInUndone:
		return p.bus.InTx(ctx, func(tx *bus.Tx) error {
			if err := writeOrder(ctx, tx, o); err != nil {
				return err
			}
			if err := p.bus.PublishTx(ctx, tx, o); err != nil {
				return err
			}
			if o.Way == wayInUndone {
				return errUndone
			}
			return nil
		})
	default:
		return p.bus.Publish(ctx, o)
	}
}

func (p *publisher) inOwnTx(ctx context.Context, o Ordered) (err error) {
	tx, err := p.bus.DB().BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback() // it may have ended
		}
	}()
	if err := writeOrder(ctx, tx, o); err != nil {
		return err
	}
	if err := p.bus.PublishTx(ctx, tx, o); err != nil {
		return err
	}
	if o.Way == wayUndone {
		return errUndone
	}
	return tx.Commit()
}

// held keeps a transaction open for some time before it publishes, and then for
// some time until it is committed, under either isolation level.
func (p *publisher) held(ctx context.Context, rng *rand.Rand, o Ordered, e *entry) (err error) {
	var options *sql.TxOptions
	pause := func() {}
	if !p.brief {
		options = &sql.TxOptions{Isolation: sql.LevelReadCommitted}
		if rng.IntN(2) == 0 {
			options.Isolation = sql.LevelRepeatableRead
		}
		pause = func() { pauseFor(ctx, time.Duration(rng.IntN(3000))*time.Millisecond) }
	}
	tx, err := p.bus.DB().BeginTx(ctx, options)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback() // it may have ended
		}
	}()
	if err := writeOrder(ctx, tx, o); err != nil { // the snapshot of REPEATABLE READ is from here on
		return err
	}
	pause()
	if err := p.bus.PublishTx(ctx, tx, o); err != nil {
		return err
	}
	pause()
	e.begin()
	return tx.Commit()
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// writeOrder writes the business row, which may be there when the order is
// published again.
func writeOrder(ctx context.Context, tx execer, o Ordered) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO soak_orders (id) VALUES ($1) ON CONFLICT (id) DO NOTHING`, o.ID)
	return err
}

// pauseFor waits, unless ctx ends first.
func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
