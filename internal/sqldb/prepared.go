package sqldb

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Option is an option of Open.
type Option func(*DB)

// Unprepared turns prepared statements off. Use it behind a transaction pooler that
// does not support them.
func Unprepared() Option { return func(d *DB) { d.prepares = false } }

// On PostgreSQL the statements on an event's way are prepared. This saves planning, and
// with lib/pq a round trip. A plan that is made while the tables are small would read
// them as a whole when they are large. Therefore a statement is prepared again whenever
// there are four times as many runs, judged by their ids.
//
// The previous statement is never closed, and ends with its connections. database/sql
// closes a statement on each connection on which it was used, and would wait for busy
// connections, such as for a report of the application. A process prepares each
// statement about a dozen times.
type preparation struct {
	turn    chan struct{} // of capacity 1: held while preparing, which delays no other goroutine
	current atomic.Pointer[preparedStmt]
	times   atomic.Int64 // how often it was prepared

	mu     sync.Mutex
	losses int       // recent losses
	since  time.Time // time of the first of them
	resume time.Time // the statement is not prepared before this time
}

type preparedStmt struct {
	magnitude int // of the highest run id when it was prepared
	stmt      *sqlx.Stmt
}

// NoteRun notes a run's id. The highest id is an estimate of the size of the tables.
func (d *DB) NoteRun(run int64) {
	for {
		highest := d.highest.Load()
		if run <= highest || d.highest.CompareAndSwap(highest, run) {
			return
		}
	}
}

func (d *DB) preparation(query string) *preparation {
	if p, known := d.prepared.Load(query); known {
		return p.(*preparation)
	}
	p, _ := d.prepared.LoadOrStore(query, &preparation{turn: make(chan struct{}, 1)})
	return p.(*preparation)
}

// prepare returns the prepared form of a statement. While another goroutine prepares it
// for the current size of the tables, prepare returns the previous one. It returns nil
// if the statement is not prepared.
func (d *DB) prepare(ctx context.Context, query string) (*preparedStmt, error) {
	if !d.prepares || d.kind != dialect.Postgres {
		return nil, nil
	}
	magnitude := (bits.Len64(uint64(d.highest.Load())) + 1) / 2
	p := d.preparation(query)
	kept := p.current.Load()
	if kept != nil && kept.magnitude >= magnitude {
		return kept, nil
	}
	if kept != nil {
		select {
		case p.turn <- struct{}{}:
		default:
			return kept, nil
		}
	} else {
		if p.isAtRest() {
			return nil, nil
		}
		select {
		case p.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() { <-p.turn }()
	if kept = p.current.Load(); kept != nil && kept.magnitude >= magnitude {
		return kept, nil // another goroutine was first
	}
	// Each preparation has another text: pgx reuses a statement for the same text.
	stmt, err := d.pool.PreparexContext(ctx, fmt.Sprintf("%s\n-- %d", query, p.times.Add(1)))
	if err != nil {
		return nil, err
	}
	fresh := &preparedStmt{magnitude: magnitude, stmt: stmt}
	p.current.Store(fresh)
	return fresh, nil
}

// outdated reports whether the server refused a prepared statement because it no longer
// knows the statement, as after DISCARD ALL, or because the type of its result changed
// with a table. Such a statement had no effect.
func outdated(err error) bool {
	state := State(err)
	return state == "26000" || state == "0A000"
}

// lostOften losses within lostWithin mean that a pooler discards the statement each
// time. It is then not prepared for restFor.
const (
	lostOften  = 8
	lostWithin = time.Minute
	restFor    = 10 * time.Minute
)

// drop makes the next call prepare a statement again that the server has lost.
func (d *DB) drop(query string, lost *preparedStmt) {
	p := d.preparation(query)
	if !p.current.CompareAndSwap(lost, nil) {
		return // dropped already
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.since) > lostWithin {
		p.since, p.losses = now, 0
	}
	if p.losses++; p.losses >= lostOften {
		p.resume = now.Add(restFor)
	}
}

func (p *preparation) isAtRest() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.resume)
}
