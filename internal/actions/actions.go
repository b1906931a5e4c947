// Package actions writes who did what to the record, when and why: the table actions.
package actions

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os/user"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Action is what somebody does.
type Action struct {
	Kind      string
	Operation int64 // 0 if it is not about an operation
	Of        Selection
	Name      string // of the requester
	Reason    string
}

// Selection is what a removal or a prune is about. The table has it as JSON.
type Selection struct {
	Handler   string    `json:"handler,omitempty"`
	Topic     string    `json:"topic,omitempty"`
	Before    time.Time `json:"before,omitzero"`
	Failed    bool      `json:"failed,omitempty"`
	Discarded bool      `json:"discarded,omitempty"`
}

// Write records an action and returns its id.
func Write(ctx context.Context, db *sqldb.DB, tx *sqlx.Tx, a Action) (id int64, err error) {
	selection, err := json.Marshal(a.Of)
	if err != nil {
		return 0, err
	}
	operation := sql.NullInt64{Int64: a.Operation, Valid: a.Operation != 0}
	err = db.QueryRow(ctx, tx, db.SQL(write), []any{
		a.Kind, operation, string(selection), sqldb.Printable(a.Name, sqldb.MaxName), sqldb.Printable(a.Reason, sqldb.MaxMessage),
	}, &id)
	if err != nil {
		return 0, fmt.Errorf("put the %s on record: %w", a.Kind, sqldb.RowError(err))
	}
	return id, nil
}

// Count adds to what an action has changed or deleted. Without an action, and for
// nothing, it does nothing.
func Count(ctx context.Context, db *sqldb.DB, tx *sqlx.Tx, id, runs, events, outgoing int64) error {
	if id == 0 || runs|events|outgoing == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, db.SQL(count), id, runs, events, outgoing)
	return err
}

// Last returns the id of the last action of a kind on an operation; 0 for none.
func Last(ctx context.Context, db *sqldb.DB, tx *sqlx.Tx, kind string, operation int64) (id int64, err error) {
	err = tx.GetContext(ctx, &id, db.SQL(last), operation, kind)
	return id, err
}

// Whoami returns the name of the user that the process runs as, the default of who asks.
func Whoami() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}
