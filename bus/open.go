package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/reprise-bus/reprise/internal/database"
)

// Open returns a bus on a pool that it opens, and migrates its tables to this program's
// version. Close closes the pool. The URL is one of
//
//	postgres://user:password@host:5432/database?sslmode=disable
//	sqlite:app.db, sqlite:/var/lib/app/app.db, sqlite::memory:
//
// The application may use the pool, too: see Bus.DB. A SQLite pool has one connection,
// because SQLite has one writer: while a transaction is open, every other statement
// waits.
func Open(ctx context.Context, databaseURL string, config Config) (*Bus, error) {
	if config.DB != nil {
		return nil, errors.New("bus: Open with Config.DB set: use bus.New for a pool of your own")
	}
	db, err := database.Open(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	config.DB = db
	if config.ListenURL == "" && !strings.HasPrefix(databaseURL, "sqlite:") {
		config.ListenURL = databaseURL
	}
	b, err := newBus(ctx, config)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	b.owned = db
	return b, nil
}
