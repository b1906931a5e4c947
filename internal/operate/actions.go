package operate

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// actionSelection is what a removal or a prune was about.
type actionSelection struct {
	Handler   string    `json:"handler,omitempty"`
	Topic     string    `json:"topic,omitempty"`
	Before    time.Time `json:"before,omitzero"`
	Failed    bool      `json:"failed,omitempty"`
	Discarded bool      `json:"discarded,omitempty"`
}

// act records an action and returns its id.
func (s *Operator) act(ctx context.Context, tx *sqlx.Tx, a store.Action) (id int64, err error) {
	selection, err := json.Marshal(actionSelection{a.Handler, a.Topic, a.Before, a.Failed, a.Discarded})
	if err != nil {
		return 0, err
	}
	operation := sql.NullInt64{Int64: a.Operation, Valid: a.Operation != 0}
	err = s.db.QueryRow(ctx, tx, s.db.SQL(`
		INSERT INTO reprise.actions (kind, operation_id, selection, requested_by, reason) VALUES ($1, $2, $3, $4, $5) RETURNING id`),
		[]any{string(a.Kind), operation, string(selection), sqldb.Printable(a.By.Name, sqldb.MaxName), sqldb.Printable(a.By.Reason, sqldb.MaxMessage)}, &id)
	if err != nil {
		return 0, fmt.Errorf("put the %s on record: %w", a.Kind, sqldb.RowError(err))
	}
	return id, nil
}

// acted adds to the counts of an action.
func (s *Operator) acted(ctx context.Context, tx *sqlx.Tx, id int64, done store.Pruned) error {
	if id == 0 || done == (store.Pruned{}) {
		return nil
	}
	_, err := tx.ExecContext(ctx, s.db.SQL(`
		UPDATE reprise.actions SET runs = runs + $2, events = events + $3, outgoing = outgoing + $4 WHERE id = $1`),
		id, done.Runs, done.Events, done.Outgoing)
	return err
}

// lastAct returns the id of the last action of a kind on an operation; 0 for none.
func (s *Operator) lastAct(ctx context.Context, tx *sqlx.Tx, kind store.ActionKind, operation int64) (id int64, err error) {
	err = tx.GetContext(ctx, &id, s.db.SQL(`
		SELECT coalesce(max(id), 0) FROM reprise.actions WHERE operation_id = $1 AND kind = $2`), operation, string(kind))
	return id, err
}
