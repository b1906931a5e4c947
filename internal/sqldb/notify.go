package sqldb

import (
	"context"
	"fmt"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Notifies says whether the database can tell other processes that runs are
// due.
func (d *DB) Notifies() bool { return d.kind == dialect.Postgres }

// Channel is where it tells them.
func (d *DB) Channel() string { return d.schema + "_due" }

// maxNotice is how many bytes a notice may have: a name and OutboxNotice.
const maxNotice = MaxName + len(OutboxNotice)

// OutboxNotice ends what a notice says that is about the outbox.
const OutboxNotice = " outbox"

// NotifyOutbox is Notify for events in the outbox, that wait for a relay.
func (d *DB) NotifyOutbox(ctx context.Context, q Execer, from string) error {
	return d.Notify(ctx, q, Printable(from, MaxName)+OutboxNotice)
}

// Notify tells the processes that listen on Channel that runs are due, when
// q's transaction commits. from is who says so. Where the database does not
// notify it does nothing.
func (d *DB) Notify(ctx context.Context, q Execer, from string) error {
	if !d.Notifies() {
		return nil
	}
	if _, err := q.ExecContext(ctx, `SELECT pg_notify($1, $2)`, d.Channel(), Printable(from, maxNotice)); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}
