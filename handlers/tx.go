package handlers

import (
	"context"

	"github.com/jmoiron/sqlx"
)

type txKey struct{}

// WithTx returns a context that carries a transactional handler's transaction.
func WithTx(ctx context.Context, tx *sqlx.Tx) context.Context {
	return context.WithValue(ctx, txKey{}, tx)
}

// Tx returns the transaction of a handler whose policy is Transactional. It
// commits together with the run's SUCCESS when the handler returns nil, and is
// rolled back otherwise: do neither yourself, nor by SQL. A handler that does is
// FAILED at once. In other handlers, ok is false.
//
// What else the handler publishes belongs into it: bus.PublishTx(ctx, tx, …).
func Tx(ctx context.Context) (tx *sqlx.Tx, ok bool) {
	tx, ok = ctx.Value(txKey{}).(*sqlx.Tx)
	return tx, ok
}
