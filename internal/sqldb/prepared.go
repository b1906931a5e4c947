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

// Option changes what Open returns.
type Option func(*DB)

// Unprepared does without prepared statements, for a transaction pooler that
// does not support them.
func Unprepared() Option { return func(d *DB) { d.prepares = false } }

// The statements on an event's way are prepared on PostgreSQL: that saves
// planning them each time, and lib/pq a round trip. A plan that is made once
// for all would be made while the tables are small, and read them whole when
// they are large. So a statement is prepared anew whenever there are four times
// as many runs, as far as their ids tell.
//
// The one from before is never closed, and goes with its connections: database/sql
// closes a statement on each connection that it was used on, and waits for those
// that are busy with something else, such as a report of the application's. A
// process prepares a dozen times in its life.
type preparation struct {
	turn    chan struct{} // of capacity one: filled by who prepares, who holds up nobody else
	current atomic.Pointer[preparedStmt]
	times   atomic.Int64 // it was prepared

	mu     sync.Mutex
	losses int       // of late
	since  time.Time // when the first of them was
	resume time.Time // until then the statement is not prepared
}

type preparedStmt struct {
	magnitude int // of the highest run id when it was prepared
	stmt      *sqlx.Stmt
}

// NoteRun is told of a run's id: the higher it is, the larger are the tables.
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

// prepare returns the prepared form of a statement or, while somebody prepares it
// for the size that the tables have now, the one from before. It returns nil
// where the statement is not prepared.
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
		return kept, nil // somebody else was first
	}
	// Its text is another each time: pgx takes the same for the same statement.
	stmt, err := d.pool.PreparexContext(ctx, fmt.Sprintf("%s\n-- %d", query, p.times.Add(1)))
	if err != nil {
		return nil, err
	}
	fresh := &preparedStmt{magnitude: magnitude, stmt: stmt}
	p.current.Store(fresh)
	return fresh, nil
}

// outdated says whether the server refused a prepared statement that it no longer
// knows, as after DISCARD ALL, or whose result has another type since a table was
// altered. Such a statement has done nothing.
func outdated(err error) bool {
	state := State(err)
	return state == "26000" || state == "0A000"
}

// Where statements are lost so often, a pooler discards them each time: they are
// not prepared for a while.
const (
	lostOften  = 8
	lostWithin = time.Minute
	restFor    = 10 * time.Minute
)

// drop has a statement prepared anew, which the server has lost.
func (d *DB) drop(query string, lost *preparedStmt) {
	p := d.preparation(query)
	if !p.current.CompareAndSwap(lost, nil) {
		return // it has been already
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
