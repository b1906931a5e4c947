package handlers

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
)

type txKey struct{}

// ownTx is a transaction and the handler that it was begun for.
type ownTx struct {
	tx             *sqlx.Tx
	handler, topic string
}

// WithTx returns a context that carries a transactional handler's transaction.
func WithTx(ctx context.Context, tx *sqlx.Tx) context.Context {
	return context.WithValue(ctx, txKey{}, ownTx{tx, message.HandlerNameFromCtx(ctx), message.SubscribeTopicFromCtx(ctx)})
}

// Tx returns the transaction of a handler whose policy is Transactional. It commits
// together with the run's SUCCESS when the handler returns nil, and is rolled back
// otherwise. Do not commit or roll it back yourself, nor by SQL: the run would be FAILED
// at once. In other handlers ok is false, even if a message brought them the context of a
// transactional one.
//
// To publish in the transaction, use bus.PublishTx(ctx, tx, …).
func Tx(ctx context.Context) (tx *sqlx.Tx, ok bool) {
	own, ok := ctx.Value(txKey{}).(ownTx)
	if !ok || !within(ctx, own.handler, own.topic) {
		return nil, false
	}
	return own.tx, true
}
