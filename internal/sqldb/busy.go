package sqldb

import (
	"context"
	"fmt"
	"sync"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// SQLite has one writer at a time, and refuses the others with SQLITE_BUSY: at
// once, unless their connection has a busy timeout. Which connections the pool
// has, and how they were opened, is the application's business. So
//
//   - what Reprise writes waits its turn in the process (turns), and is tried
//     again when another process, or the application, has the lock;
//   - a transaction takes the write lock when it begins: one that reads first
//     is refused for good when others have written meanwhile;
//   - where connections have no busy timeout, a transaction sets one on its own,
//     since COMMIT waits for readers in a rollback journal.

// read runs one statement that reads on the pool, again when it collided.
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

// inTurn calls f when it is the caller's turn to write. What SQLite then refuses
// goes to the end of the queue, so that nobody waits for the patience of others.
func (d *DB) inTurn(ctx context.Context, f func() error) error {
	pass, err := d.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer pass()
	return f()
}

// within runs f, which executes one statement on a transaction of the caller's, and
// reads what it returns to the end.
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

// SetBusyTimeout gives the connection of a transaction a busy timeout, where those of
// the pool have none.
func (d *DB) SetBusyTimeout(ctx context.Context, tx Execer) error {
	if !d.impatient {
		return nil
	}
	_, err := tx.ExecContext(ctx, ownBusyTimeout)
	return err
}

// takeTurn returns when it is the caller's turn to write, and what ends it; pass
// may be called more than once.
func (d *DB) takeTurn(ctx context.Context) (pass func(), err error) {
	return d.through(ctx, d.turns)
}

// takeLongTurn is takeTurn for a transaction of the application's, which may
// take long: only one of them waits among Reprise's own writes, such as a
// heartbeat, and the others wait behind it.
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
