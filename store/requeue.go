package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// Replay is somebody's request to run a selection of failed runs again.
type Replay struct {
	ID          int64
	RequestedBy string
	Reason      string
	Selection   Filter
	Total       int64 // runs made due
	RequestedAt time.Time
}

// Requeue records the replay and makes the FAILED runs of its selection due
// again, in one transaction: other runs that it selects stay as they are, and
// its page (Before, Limit) does not matter. The attempts that failed stay on
// record. It returns the replay with ID, Total and RequestedAt filled in; Total
// is 0 when nothing failed is selected.
//
// A selection that includes a failed run of a handler without a subscription
// is refused whole: nobody would claim the run.
func (s *Store) Requeue(ctx context.Context, r Replay) (Replay, error) {
	if err := r.Selection.Validate(); err != nil {
		return r, err
	}
	selection, err := json.Marshal(r.Selection)
	if err != nil {
		return r, err
	}
	if r.Selection.Status != "" && r.Selection.Status != Failed {
		return r, fmt.Errorf("replay runs of status %s: want %s, the only ones that are replayed", r.Selection.Status, Failed)
	}
	f := r.Selection
	f.Status, f.Before, f.Limit = Failed, 0, 0
	where, args := s.where(f)
	err = s.inTx(ctx, func(tx *sqlx.Tx) error {
		var requested instant
		if err := tx.QueryRowxContext(ctx, s.sql(`
			INSERT INTO reprise.replays (requested_by, reason, selection) VALUES ($1, $2, $3)
			RETURNING id, requested_at`), r.RequestedBy, r.Reason, string(selection)).Scan(&r.ID, &requested); err != nil {
			return err
		}
		r.RequestedAt = requested.Time
		if err := s.unserved(ctx, tx, where, args); err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, s.compose(fmt.Sprintf(`
			UPDATE reprise.handler_runs AS r
			SET status = 'PENDING', finished_at = NULL, instance = NULL, due_at = now(), tries = 0, cycle = 0, replay_id = $%d
			WHERE %s`, len(args)+1, where)), append(args[:len(args):len(args)], r.ID)...)
		if err != nil {
			return err
		}
		if r.Total, err = result.RowsAffected(); err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, s.sql(`UPDATE reprise.replays SET total = $1 WHERE id = $2`), r.Total, r.ID); err != nil || r.Total == 0 {
			return err
		}
		return s.Notify(ctx, tx, "")
	})
	if err != nil {
		return r, fmt.Errorf("make failed runs due again: %w", err)
	}
	return r, nil
}

// unserved is an error that names the selected handlers which have no
// subscription.
func (s *Store) unserved(ctx context.Context, tx *sqlx.Tx, where string, args []any) error {
	var handlers []string
	err := tx.SelectContext(ctx, &handlers, s.compose(fmt.Sprintf(`
		SELECT DISTINCT r.handler FROM reprise.handler_runs r
		WHERE %s AND NOT EXISTS (
			SELECT 1 FROM reprise.subscriptions s WHERE s.topic = r.topic AND s.handler = r.handler)
		ORDER BY r.handler`, where)), args...)
	if err != nil || len(handlers) == 0 {
		return err
	}
	return fmt.Errorf("no subscription for handler %s: register it with the bus, or select other handlers; nothing was replayed",
		strings.Join(handlers, ", "))
}
