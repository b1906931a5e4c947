package migrations_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
)

// A migration that waits for one transaction of the application lets the
// publishes of all others pass: they read reprise.subscriptions.
func TestAMigrationThatWaitsHoldsUpNoPublish(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"", "pgx"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			s := source{dialect.Postgres, driver, testdb.Postgres(t)}
			db := open(t, s)
			version1(t, db, s, "reprise")
			tx, err := db.Begin()
			require.NoError(t, err)
			defer func() { _ = tx.Rollback() }()
			const publish = `SELECT FROM reprise.subscriptions FOR SHARE`
			_, err = tx.Exec(publish)
			require.NoError(t, err)

			migrated := make(chan error, 1)
			go func() { migrated <- migrations.Up(t.Context(), open(t, s), "") }()
			require.Eventually(t, func() bool {
				var waits bool
				require.NoError(t, db.QueryRow(`SELECT EXISTS (SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
					WHERE d.datname = current_database() AND NOT l.granted AND l.relation = 'reprise.subscriptions'::regclass)`).Scan(&waits))
				return waits
			}, 20*time.Second, 5*time.Millisecond, "the migration waits for the transaction")

			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err = db.ExecContext(ctx, publish)
			require.NoError(t, err, "others publish meanwhile")
			require.NoError(t, tx.Commit())
			require.NoError(t, <-migrated)
			require.NoError(t, migrations.Check(t.Context(), db, ""))
		})
	}
}
