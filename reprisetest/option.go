package reprisetest

import (
	"context"
	"database/sql"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/dialect"
)

// Option sets the environment of a handler. Each option is a field of bus.Config.
type Option func(*settings)

// WithDB gives transactional handlers their transactions on db, which are committed when
// the handler returns nil. The database needs none of Reprise's tables.
func WithDB(db *sql.DB) Option { return func(s *settings) { s.pool = db } }

// WithMarshaler sets the application's marshaler; default the bus's.
func WithMarshaler(m cqrs.CommandEventMarshaler) Option {
	return func(s *settings) { s.marshaler = m }
}

// WithMiddleware puts the application's middleware around every handler.
func WithMiddleware(m ...message.HandlerMiddleware) Option {
	return func(s *settings) { s.middleware = append(s.middleware, m...) }
}

// WithOnPublish sets the application's hook for published events.
func WithOnPublish(f cqrs.OnEventSendFn) Option { return func(s *settings) { s.onPublish = f } }

// WithOnSend sets the application's hook for commands.
func WithOnSend(f cqrs.CommandBusOnSendFn) Option { return func(s *settings) { s.onSend = f } }

const sqlite = "sqlite3" // sqlx's name for its bind variables

type settings struct {
	pool       *sql.DB
	marshaler  cqrs.CommandEventMarshaler
	middleware []message.HandlerMiddleware
	onPublish  cqrs.OnEventSendFn
	onSend     cqrs.CommandBusOnSendFn

	db    *sqlx.DB // of pool
	begin func(ctx context.Context, options *sql.TxOptions, f func(tx *sqlx.Tx) error) error
}

func newSettings(t testing.TB, options []Option) *settings {
	t.Helper()
	s := &settings{marshaler: handlers.JSON()}
	s.begin = s.inTx
	s.apply(t, options)
	return s
}

func (s *settings) apply(t testing.TB, options []Option) {
	t.Helper()
	for _, option := range options {
		option(s)
	}
	if s.pool == nil || s.db != nil && s.db.DB == s.pool {
		return
	}
	kind, err := dialect.Detect(t.Context(), s.pool)
	if err != nil {
		t.Fatalf("reprisetest: WithDB: %v", err)
	}
	driver := "postgres"
	if kind == dialect.SQLite {
		driver = sqlite
	}
	s.db = sqlx.NewDb(s.pool, driver)
}
