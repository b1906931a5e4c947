package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// SQLite has one writer at a time, and refuses the others with SQLITE_BUSY: at
// once, unless their connection has a busy timeout. Which connections the pool
// has, and how they were opened, is the application's business. So
//
//   - what Reprise writes waits its turn in the process (gate), and is tried
//     again when another process, or the application, has the lock;
//   - a transaction takes the write lock when it begins: one that reads first
//     is refused for good when others have written meanwhile;
//   - where connections have no busy timeout, a transaction sets one on its own,
//     since COMMIT waits for readers in a rollback journal.

// read runs one statement that reads on the pool, again when it collided.
func (s *Store) read(ctx context.Context, f func() error) error {
	if s.kind == dialect.SQLite && s.db.Stats().MaxOpenConnections == 1 && s.inside.here() {
		return ErrWaitsForItself
	}
	return Again(ctx, f)
}

// write is read for a statement that writes.
func (s *Store) write(ctx context.Context, f func() error) error {
	if s.kind != dialect.SQLite {
		return Again(ctx, f)
	}
	if s.inside.here() {
		return ErrWaitsForItself
	}
	return Again(ctx, func() error { return s.inTurn(ctx, f) })
}

// inTurn calls f when it is the caller's turn to write. What SQLite then refuses
// goes to the end of the queue, so that nobody waits for the patience of others.
func (s *Store) inTurn(ctx context.Context, f func() error) error {
	pass, err := s.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer pass()
	return f()
}

// within runs f, which executes one statement on a transaction of the caller's, and
// reads what it returns to the end.
func (s *Store) within(ctx context.Context, q any, f func() error) error {
	if s.kind != dialect.SQLite {
		return f()
	}
	if tx, ok := q.(Execer); ok {
		if err := s.bePatient(ctx, tx); err != nil {
			return err
		}
	}
	err := f()
	if code, _ := dialect.ResultCode(err); code == busySnapshot {
		return fmt.Errorf("%w: the transaction has read before another wrote, and can write no more: roll it back and begin again, and open the pool with _txlock=immediate so that transactions take the write lock when they begin", err)
	}
	return err
}

const busySnapshot = 517 // SQLITE_BUSY_SNAPSHOT

// bePatient gives the connection of a transaction a busy timeout, where those of
// the pool have none.
func (s *Store) bePatient(ctx context.Context, tx Execer) error {
	if !s.impatient {
		return nil
	}
	_, err := tx.ExecContext(ctx, setBusyTimeout)
	return err
}

// takeTurn returns when it is the caller's turn to write, and what ends it; pass
// may be called more than once.
func (s *Store) takeTurn(ctx context.Context) (pass func(), err error) {
	return s.through(ctx, s.gate)
}

// takeLongTurn is takeTurn for a transaction of the application's, which may
// take long: only one of them waits among Reprise's own writes, such as a
// heartbeat, and the others wait behind it.
func (s *Store) takeLongTurn(ctx context.Context) (pass func(), err error) {
	next, err := s.through(ctx, s.long)
	if err != nil {
		return nil, err
	}
	now, err := s.takeTurn(ctx)
	if err != nil {
		next()
		return nil, err
	}
	return func() { now(); next() }, nil
}

func (s *Store) through(ctx context.Context, gate chan struct{}) (pass func(), err error) {
	if s.kind != dialect.SQLite {
		return func() {}, nil
	}
	select {
	case gate <- struct{}{}:
		return sync.OnceFunc(func() { <-gate }), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// begin begins a transaction, with SQLite's write lock.
func (s *Store) begin(ctx context.Context, options *sql.TxOptions) (*sqlx.Tx, error) {
	tx, err := s.db.BeginTxx(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	if s.kind != dialect.SQLite {
		return tx, nil
	}
	err = s.bePatient(ctx, tx)
	if err == nil {
		_, err = tx.ExecContext(ctx, s.sql(`UPDATE reprise.instances SET id = id WHERE false`))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin: %w", err), rollback(tx))
	}
	return tx, nil
}

// rollback does nothing to a transaction that has ended.
func rollback(tx *sqlx.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// Begin begins a transaction in which the application's own code runs; over is
// to be called when it has ended. Without options it has the isolation level that is
// the database's default. On SQLite it has the write lock, for which it waits
// until ctx ends or 10 s have passed; an error is then Collided.
//
// Until over is called, what the same goroutine asks the store for fails with
// ErrWaitsForItself where it would wait for this transaction; so does Begin.
func (s *Store) Begin(ctx context.Context, options *sql.TxOptions) (tx *sqlx.Tx, over func(), err error) {
	if s.WaitsForItself() {
		return nil, nil, ErrWaitsForItself
	}
	var pass func()
	if err := Again(ctx, func() (err error) {
		if pass, err = s.takeLongTurn(ctx); err != nil {
			return err
		}
		if tx, err = s.begin(ctx, options); err != nil {
			pass()
		}
		return err
	}); err != nil {
		return nil, nil, err
	}
	leave := func() {}
	if s.excludes() {
		leave = s.inside.enter()
	}
	// When ctx ends, database/sql rolls back, whether the code heeds it or not.
	stop := context.AfterFunc(ctx, pass)
	return tx, func() { stop(); pass(); leave() }, nil
}

// excludes says whether an open transaction keeps all others from being written.
func (s *Store) excludes() bool {
	return s.kind == dialect.SQLite || s.db.Stats().MaxOpenConnections == 1
}

// ErrWaitsForItself is returned by what would wait for a transaction that the
// caller itself has open.
var ErrWaitsForItself = errors.New("this goroutine has a transaction open that keeps everything else from being written, and would wait for itself: use that transaction; nothing was written")

// WaitsForItself says whether the calling goroutine has a transaction of Begin
// open that it would wait for if it wrote anything else. What is waited for by
// way of another goroutine is not seen.
func (s *Store) WaitsForItself() bool { return s.inside.here() }
