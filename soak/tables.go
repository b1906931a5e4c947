package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

// makeTables makes the application's own tables. None but the business table
// has a constraint: what happens twice must be seen.
func makeTables(ctx context.Context, db *sql.DB) error {
	for _, statement := range []string{
		`CREATE TABLE soak_orders (id text PRIMARY KEY)`,
		`CREATE TABLE soak_effects (event_id text NOT NULL, topic text NOT NULL, handler text NOT NULL, attempt integer NOT NULL)`,
		`CREATE TABLE soak_notes (invocation text PRIMARY KEY, event_id text NOT NULL, topic text NOT NULL, handler text NOT NULL, attempt integer NOT NULL, what text NOT NULL, pid integer NOT NULL, at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP)`,
		`CREATE INDEX soak_notes_by_time ON soak_notes (at)`,
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("make the tables of the soak: %w", err)
		}
	}
	return nil
}

// What a note says.
const (
	noteBegun     = "begun"
	noteExhausted = "exhausted"
)

// notebook keeps what handlers did, outside of Reprise.
type notebook struct{ db *sql.DB }

// write notes that something happened to a run. It tries again until the
// database has it, and never writes it twice.
func (n notebook) write(ctx context.Context, what string, run store.Run) error {
	invocation := uuid.NewString()
	for {
		_, err := n.db.ExecContext(ctx, `
			INSERT INTO soak_notes (invocation, event_id, topic, handler, attempt, what, pid) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (invocation) DO NOTHING`,
			invocation, run.EventID, run.Topic, run.Handler, run.Attempt, what, os.Getpid())
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// writeEffect is what a transactional handler does.
func writeEffect(ctx context.Context, run store.Run) error {
	tx, ok := handlers.Tx(ctx)
	if !ok {
		return errors.New("the transactional handler's context carries no transaction")
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO soak_effects (event_id, topic, handler, attempt) VALUES ($1, $2, $3, $4)`,
		run.EventID, run.Topic, run.Handler, run.Attempt)
	return err
}
