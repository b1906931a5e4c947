package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Option changes what New returns.
type Option func(*Store)

// Unprepared does without prepared statements, for a transaction pooler that
// does not support them.
func Unprepared() Option { return func(s *Store) { s.prepares = false } }

// The statements on an event's way are prepared on PostgreSQL: that saves
// planning them each time, and lib/pq a round trip. A plan that is made once
// for all would be made while the tables are small, and read them whole when
// they are large. So a statement is prepared anew whenever the runs have become
// twice as many, as far as their ids tell.
type preparedStmt struct {
	magnitude int // of the highest run id when it was prepared
	stmt      *sqlx.Stmt

	mu      sync.Mutex
	users   int
	retired bool // nobody begins to use it any more; the last user closes it
}

// use says whether it may be used.
func (p *preparedStmt) use() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.retired {
		p.users++
	}
	return !p.retired
}

// release ends one use.
func (p *preparedStmt) release() {
	p.mu.Lock()
	p.users--
	last := p.retired && p.users == 0
	p.mu.Unlock()
	if last {
		_ = p.stmt.Close() // whatever comes of it, nobody needs it
	}
}

func (p *preparedStmt) retire() {
	p.mu.Lock()
	p.retired = true
	unused := p.users == 0
	p.mu.Unlock()
	if unused {
		_ = p.stmt.Close()
	}
}

// saw is told of a run's id.
func (s *Store) saw(run int64) {
	for {
		highest := s.highest.Load()
		if run <= highest || s.highest.CompareAndSwap(highest, run) {
			return
		}
	}
}

// prepare returns the prepared form of a statement, for one use, which ends with
// release. It returns nil where statements are not prepared.
func (s *Store) prepare(ctx context.Context, query string) (*preparedStmt, error) {
	if !s.prepares || s.kind != dialect.Postgres {
		return nil, nil
	}
	for {
		p, err := s.current(ctx, query)
		if err != nil {
			return nil, err
		}
		if p.use() {
			return p, nil
		}
	}
}

// preparation is one statement's. Whoever prepares it holds up nobody else: the
// database may take its time, such as while a table is locked.
type preparation struct {
	turn    chan struct{} // of capacity one: filled by who prepares
	current atomic.Pointer[preparedStmt]
}

func (s *Store) preparation(query string) *preparation {
	if p, known := s.prepared.Load(query); known {
		return p.(*preparation)
	}
	p, _ := s.prepared.LoadOrStore(query, &preparation{turn: make(chan struct{}, 1)})
	return p.(*preparation)
}

// current returns the statement that is prepared for the size the tables have or,
// while somebody prepares that, the one from before.
func (s *Store) current(ctx context.Context, query string) (*preparedStmt, error) {
	magnitude := bits.Len64(uint64(s.highest.Load()))
	p := s.preparation(query)
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
	stmt, err := s.db.PreparexContext(ctx, query)
	if err != nil {
		return nil, err
	}
	fresh := &preparedStmt{magnitude: magnitude, stmt: stmt}
	p.current.Store(fresh)
	if kept != nil {
		kept.retire()
	}
	return fresh, nil
}

// QueryPrepared runs a statement on q, prepared where q is the store's pool.
// Refused knows of its error how often the statement was sent.
func (s *Store) QueryPrepared(ctx context.Context, q Queryer, query string, args ...any) (*sql.Rows, error) {
	rows, _, err := s.queryCounted(ctx, q, query, args...)
	return rows, err
}

// queryCounted tells how often the statement was sent, of which one without an
// error is the last.
func (s *Store) queryCounted(ctx context.Context, q Queryer, query string, args ...any) (_ *sql.Rows, times *int, err error) {
	times = new(int)
	*times = 1
	if len(args) > 0 {
		if v, ok := args[0].(driver.Valuer); ok { // as on PostgreSQL
			*times = 0
			args = append([]any{sending{v, times}}, args[1:]...)
		}
	}
	rows, err := s.queryPrepared(ctx, q, query, args...)
	if err != nil {
		return nil, times, &sentError{poolerError(err), *times}
	}
	return rows, times, nil
}

// sending is an argument that counts how often it is sent: database/sql asks
// for its value when it has a connection, and sends a statement again, unasked,
// whose connection was lost.
type sending struct {
	driver.Valuer
	times *int
}

func (s sending) Value() (driver.Value, error) {
	*s.times++
	return s.Valuer.Value()
}

func (s *Store) queryPrepared(ctx context.Context, q Queryer, query string, args ...any) (*sql.Rows, error) {
	if db, ok := q.(*sqlx.DB); !ok || db != s.db {
		return q.QueryContext(ctx, query, args...)
	}
	p, err := s.prepare(ctx, query)
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return s.db.QueryContext(ctx, query, args...)
	default:
		defer p.release()
		return p.stmt.QueryContext(ctx, args...)
	}
}

// execPrepared is QueryPrepared for a statement that returns no rows.
func (s *Store) execPrepared(ctx context.Context, q Execer, query string, args ...any) (sql.Result, error) {
	if db, ok := q.(*sqlx.DB); !ok || db != s.db {
		return q.ExecContext(ctx, query, args...)
	}
	p, err := s.prepare(ctx, query)
	switch {
	case err != nil:
		return nil, poolerError(err)
	case p == nil:
		result, err := s.db.ExecContext(ctx, query, args...)
		return result, poolerError(err)
	default:
		defer p.release()
		result, err := p.stmt.ExecContext(ctx, args...)
		return result, poolerError(err)
	}
}
