package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// AllTopics is the Topic of the declaration that applies to every topic without a
// declaration of its own.
const AllTopics = "*"

// Topic is the application's declaration of a topic. It tells operators and the command
// line, who see only the database, how to publish on the topic.
type Topic struct {
	Topic       string
	Transport   string // the transport that carries its events; "" is the database
	Mode        string // how they are published; "" is the default
	Manual      bool   // whether operators may publish on it
	Description string
	DeclaredAt  time.Time // when it was last declared
}

// DeclareTopics stores the application's declarations. A declaration replaces an
// earlier one of the same topic. Declarations of other topics stay.
func (s *Store) DeclareTopics(ctx context.Context, topics []Topic) error {
	for _, t := range topics {
		if err := sqldb.ValidName("topic", t.Topic); err != nil {
			return err
		}
	}
	topics = slices.SortedFunc(slices.Values(topics), func(a, b Topic) int { return strings.Compare(a.Topic, b.Topic) }) // one order everywhere, so that no two processes deadlock
	err := s.db.InTx(ctx, func(tx *sqlx.Tx) error {
		for _, t := range topics {
			if _, err := tx.ExecContext(ctx, s.db.SQL(`
				INSERT INTO reprise.topics (topic, transport, mode, manual, description) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (topic) DO UPDATE SET transport = excluded.transport, mode = excluded.mode, manual = excluded.manual,
					description = excluded.description, declared_at = now()`),
				t.Topic, sqldb.Printable(t.Transport, sqldb.MaxName), sqldb.Printable(t.Mode, sqldb.MaxName), t.Manual, sqldb.Printable(t.Description, sqldb.MaxMessage)); err != nil {
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

// Topics returns the application's declarations, by topic.
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

// OperationMetadata is the metadata field in which an event that was published by hand
// names its operation.
const OperationMetadata = "operation_id"
