package store

import (
	"context"
	"errors"
	"fmt"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// AllTopics is the Topic of a declaration that is for all topics without one of
// their own.
const AllTopics = "*"

// Topic is what the application says of a topic, for those who look at the
// database from outside: operators, and the command line.
type Topic struct {
	Topic       string
	Transport   string // that carries its events; "" is the database
	Mode        string // how they are published; "" is the default
	Manual      bool   // operators may publish on it
	Description string
	DeclaredAt  time.Time // last
}

// DeclareTopics keeps what the application says of its topics. What it says no
// more of a topic stays; what it said before of the same topic does not.
func (s *Store) DeclareTopics(ctx context.Context, topics []Topic) error {
	for _, t := range topics {
		if err := validName("topic", t.Topic); err != nil {
			return err
		}
	}
	topics = slices.SortedFunc(slices.Values(topics), func(a, b Topic) int { return strings.Compare(a.Topic, b.Topic) }) // in one order everywhere
	err := s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		for _, t := range topics {
			if _, err := tx.ExecContext(ctx, s.db.SQL(`
				INSERT INTO reprise.topics (topic, transport, mode, manual, description) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (topic) DO UPDATE SET transport = excluded.transport, mode = excluded.mode, manual = excluded.manual,
					description = excluded.description, declared_at = now()`),
				t.Topic, printable(t.Transport, maxName), printable(t.Mode, maxName), t.Manual, printable(t.Description, maxMessage)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("declare topics: %w", err)
	}
	return nil
}

// Topics returns what the application says of its topics, by name.
func (s *Store) Topics(ctx context.Context) ([]Topic, error) {
	var rows []struct {
		Topic       string     `db:"topic"`
		Transport   string     `db:"transport"`
		Mode        string     `db:"mode"`
		Manual      bool       `db:"manual"`
		Description string     `db:"description"`
		DeclaredAt  sqldb.Time `db:"declared_at"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(`
		SELECT topic, transport, mode, manual, description, declared_at FROM reprise.topics ORDER BY topic`)); err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	topics := make([]Topic, len(rows))
	for i, r := range rows {
		topics[i] = Topic{Topic: r.Topic, Transport: r.Transport, Mode: r.Mode, Manual: r.Manual, Description: r.Description, DeclaredAt: r.DeclaredAt.Time}
	}
	return topics, nil
}

// RecordPublishing puts on record that somebody publishes events by hand on
// the topic that the operation selects. Their metadata name the operation, see
// OperationMetadata.
func (s *Store) RecordPublishing(ctx context.Context, o Operation) (Operation, error) {
	o.Kind = Publishing
	var errs []error
	if strings.TrimSpace(o.RequestedBy) == "" {
		errs = append(errs, errNoRequester)
	}
	if err := ValidTopic(o.Selection.Topic); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return o, fmt.Errorf("%s: %w", o.Kind, err)
	}
	o, err := s.request(ctx, s.db.Pool(), o)
	if err != nil {
		return o, fmt.Errorf("request to %s: %w", o.Kind, err)
	}
	return o, nil
}

// Published says how many events have been published by an operation of
// RecordPublishing, and whether these are all.
func (s *Store) Published(ctx context.Context, operation, n int64, complete bool) error {
	if _, err := s.db.ExecContext(ctx, s.db.SQL(`
		UPDATE reprise.operations SET taken = $2, total = $2, complete = $3 WHERE id = $1 AND kind = 'publish'`), operation, n, complete); err != nil {
		return fmt.Errorf("record what was published: %w", err)
	}
	return nil
}

// OperationMetadata is where an event that was published by hand names the
// operation.
const OperationMetadata = "operation_id"
