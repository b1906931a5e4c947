package sqldb

import (
	"context"
	"fmt"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Notifies reports whether the database can notify other processes of due runs.
func (d *DB) Notifies() bool { return d.kind == dialect.Postgres }

// Channel returns the name of the channel for notices.
func (d *DB) Channel() string { return d.schema + "_due" }

// maxNotice is the size limit of a notice in bytes: a name and OutboxNotice.
const maxNotice = MaxName + len(OutboxNotice)

// OutboxNotice is the end of a notice about the outbox.
const OutboxNotice = " outbox"

// NotifyOutbox is Notify for events in the outbox that wait for a relay.
func (d *DB) NotifyOutbox(ctx context.Context, q Execer, from string) error {
	return d.Notify(ctx, q, Printable(from, MaxName)+OutboxNotice)
}

// Notify tells the processes that listen on Channel that runs are due, when q's
// transaction commits. from names the sender. If the database does not support notices,
// Notify does nothing.
func (d *DB) Notify(ctx context.Context, q Execer, from string) error {
	if !d.Notifies() {
		return nil
	}
	if _, err := q.ExecContext(ctx, `SELECT pg_notify($1, $2)`, d.Channel(), Printable(from, maxNotice)); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}
