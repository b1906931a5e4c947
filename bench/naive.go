package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"
)

// openNaive is what a team writes first when it wants a record of every handler run: a middleware
// with an INSERT before the handler and an UPDATE after it.
func openNaive(ctx context.Context, s setup, handle func(context.Context, event) error) (peer, error) {
	if len(s.Brokers) > 0 {
		return openStockKafka(ctx, s, handle, true)
	}
	return openStock(ctx, s, handle, true)
}

const naiveTable = `CREATE TABLE IF NOT EXISTS handler_runs (
	id          bigserial PRIMARY KEY,
	event       uuid,
	handler     text,
	status      text,
	payload     jsonb,
	error       text,
	started_at  timestamptz DEFAULT now(),
	finished_at timestamptz
)`

// recordNaively makes the table, and adds the middleware.
func recordNaively(ctx context.Context, router *message.Router, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, naiveTable); err != nil {
		return err
	}
	router.AddMiddleware(func(next message.HandlerFunc) message.HandlerFunc {
		return func(m *message.Message) ([]*message.Message, error) {
			var id int64
			err := db.QueryRow(`INSERT INTO handler_runs (event, handler, status, payload) VALUES ($1, $2, 'PENDING', $3) RETURNING id`,
				m.UUID, message.HandlerNameFromCtx(m.Context()), string(m.Payload)).Scan(&id)
			if err != nil {
				return nil, err
			}
			out, err := next(m)
			if err != nil {
				_, late := db.Exec(`UPDATE handler_runs SET status = 'FAILED', error = $2, finished_at = now() WHERE id = $1`, id, err.Error())
				return nil, errors.Join(err, late)
			}
			_, err = db.Exec(`UPDATE handler_runs SET status = 'SUCCESS', finished_at = now() WHERE id = $1`, id)
			return out, err
		}
	})
	return nil
}
