package store

import (
	"context"
	"fmt"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Notifies says whether the database can tell other processes that runs are
// due.
func (s *Store) Notifies() bool { return s.db.Kind() == dialect.Postgres }

// Channel is where it tells them.
func (s *Store) Channel() string { return s.db.Schema() + "_due" }

// maxNotice is how many bytes a notice may have: a name and OutboxNotice.
const maxNotice = maxName + len(OutboxNotice)

// OutboxNotice ends what a notice says that is about the outbox.
const OutboxNotice = " outbox"

// NotifyOutbox is Notify for events in the outbox, that wait for a relay.
func (s *Store) NotifyOutbox(ctx context.Context, q sqldb.Execer, from string) error {
	return s.Notify(ctx, q, printable(from, maxName)+OutboxNotice)
}

// Notify tells the processes that listen on Channel that runs are due, when
// q's transaction commits. from is who says so. Where the database does not
// notify it does nothing.
func (s *Store) Notify(ctx context.Context, q sqldb.Execer, from string) error {
	if !s.Notifies() {
		return nil
	}
	if _, err := q.ExecContext(ctx, `SELECT pg_notify($1, $2)`, s.Channel(), printable(from, maxNotice)); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}
