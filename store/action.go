package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/actions"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

// ActionKind is the kind of an action.
type ActionKind string

// The kinds of action. The first four are about an operation.
const (
	Pausing    ActionKind = "pause"
	Resuming   ActionKind = "resume"
	Cancelling ActionKind = "cancel"
	Undoing    ActionKind = "undo"
	Removing   ActionKind = "remove" // a handler's subscription
	Pruning    ActionKind = "prune"  // old events
)

// By says who asks for something, and why.
type By struct {
	Name   string // must not be empty
	Reason string
}

// Validate returns an error if Name is empty.
func (b By) Validate() error {
	if strings.TrimSpace(b.Name) == "" {
		return errors.New("it does not say who asks for it: set By.Name")
	}
	return nil
}

// Action records what an operator did to an operation, to a subscription or to old
// events. Its counts are written in the transactions that do the work: an interrupted
// action shows how far it came.
type Action struct {
	ID        int64
	Kind      ActionKind
	Operation int64     // 0 for a removal or a prune
	Handler   string    // of a removal
	Topic     string    // of a removal
	Before    time.Time // of a prune: the time before which events were deleted
	Failed    bool      // of a prune: whether it included FAILED runs
	Discarded bool      // of a prune: whether it included runs whose discard could be undone
	By        By
	Runs      int64 // changed by the action; of a prune, deleted
	Events    int64 // deleted by a prune
	Outgoing  int64 // events of the outbox that a prune deleted
	At        time.Time
}

// Actions returns at most limit actions with an id lower than before, newest first. A
// before of 0 starts at the newest; a limit of 0 is DefaultLimit.
func (s *Store) Actions(ctx context.Context, before int64, limit int) ([]Action, error) {
	if err := validPage("an action", before, limit); err != nil {
		return nil, err
	}
	if limit == 0 {
		limit = DefaultLimit
	}
	return s.actions(ctx, `WHERE CAST($1 AS bigint) = 0 OR id < $1 ORDER BY id DESC LIMIT $2`, before, limit)
}

// ActionsOn returns the newest actions on an operation, at most MaxLimit, oldest first.
// For an unknown operation it returns none.
func (s *Store) ActionsOn(ctx context.Context, operation int64) ([]Action, error) {
	return s.actions(ctx, `WHERE id IN (SELECT id FROM reprise.actions WHERE operation_id = $1 ORDER BY id DESC LIMIT $2) ORDER BY id`, operation, MaxLimit)
}

func (s *Store) actions(ctx context.Context, which string, args ...any) ([]Action, error) {
	var rows []struct {
		ID        int64         `db:"id"`
		Kind      ActionKind    `db:"kind"`
		Operation sql.NullInt64 `db:"operation_id"`
		Selection []byte        `db:"selection"`
		Name      string        `db:"requested_by"`
		Reason    string        `db:"reason"`
		Runs      int64         `db:"runs"`
		Events    int64         `db:"events"`
		Outgoing  int64         `db:"outgoing"`
		At        sqldb.Time    `db:"at"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(`
		SELECT id, kind, operation_id, selection, requested_by, reason, runs, events, outgoing, at FROM reprise.actions `+which), args...); err != nil {
		return nil, fmt.Errorf("read actions: %w", err)
	}
	did := make([]Action, len(rows))
	for i, r := range rows {
		var of actions.Selection
		if err := json.Unmarshal(r.Selection, &of); err != nil {
			return nil, fmt.Errorf("action %d: selection in the database: %w", r.ID, err)
		}
		did[i] = Action{
			ID: r.ID, Kind: r.Kind, Operation: r.Operation.Int64, Handler: of.Handler, Topic: of.Topic, Before: of.Before, Failed: of.Failed, Discarded: of.Discarded,
			By: By{r.Name, r.Reason}, Runs: r.Runs, Events: r.Events, Outgoing: r.Outgoing, At: r.At.Time,
		}
	}
	return did, nil
}
