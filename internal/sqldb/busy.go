package sqldb

import (
	"context"
	"fmt"
	"sync"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// SQLite has one writer at a time, and refuses the others with SQLITE_BUSY: at once, unless
// their connection has a busy timeout. The application decides which connections the pool
// has and how they are opened. Therefore:
//
//   - Reprise's writers take turns within the process (turns), and retry while another
//     process, or the application, has the lock.
//   - A transaction takes the write lock when it begins. A transaction that reads first
//     could never write once others have written meanwhile.
//   - If the connections have no busy timeout, a transaction sets one, because COMMIT waits
//     for readers in a rollback journal.

// read runs one reading statement on the pool, and retries it after a collision.
func (d *DB) read(ctx context.Context, f func() error) error {
	if d.kind == dialect.SQLite && d.pool.Stats().MaxOpenConnections == 1 && d.exclusives.here() {
		return ErrWaitsForItself
	}
	return Again(ctx, f)
}

// write is read for a statement that writes.
func (d *DB) write(ctx context.Context, f func() error) error {
	if d.kind != dialect.SQLite {
		return Again(ctx, f)
	}
	if d.exclusives.here() {
		return ErrWaitsForItself
	}
	return Again(ctx, func() error { return d.inTurn(ctx, f) })
}

// inTurn calls f when it is the caller's turn to write. A call that SQLite refuses goes
// to the end of the queue, so that no writer waits for the retries of others.
func (d *DB) inTurn(ctx context.Context, f func() error) error {
	pass, err := d.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer pass()
	return f()
}

// within runs f, which executes one statement in the caller's transaction and reads its
// result to the end.
func (d *DB) within(ctx context.Context, q any, f func() error) error {
	if d.kind != dialect.SQLite {
		return f()
	}
	if tx, ok := q.(Execer); ok {
		if err := d.SetBusyTimeout(ctx, tx); err != nil {
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

// SetBusyTimeout gives the transaction's connection a busy timeout if the pool's
// connections have none.
func (d *DB) SetBusyTimeout(ctx context.Context, tx Execer) error {
	if !d.impatient {
		return nil
	}
	_, err := tx.ExecContext(ctx, ownBusyTimeout)
	return err
}

// takeTurn waits until it is the caller's turn to write. pass ends the turn, and may be
// called more than once.
func (d *DB) takeTurn(ctx context.Context) (pass func(), err error) {
	return d.through(ctx, d.turns)
}

// takeLongTurn is takeTurn for a transaction of the application, which may take long.
// Only one such transaction waits among Reprise's own writes, such as a heartbeat; the
// others wait behind it.
func (d *DB) takeLongTurn(ctx context.Context) (pass func(), err error) {
	next, err := d.through(ctx, d.longTurns)
	if err != nil {
		return nil, err
	}
	now, err := d.takeTurn(ctx)
	if err != nil {
		next()
		return nil, err
	}
	return func() { now(); next() }, nil
}

func (d *DB) through(ctx context.Context, gate chan struct{}) (pass func(), err error) {
	if d.kind != dialect.SQLite {
		return func() {}, nil
	}
	select {
	case gate <- struct{}{}:
		return sync.OnceFunc(func() { <-gate }), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
