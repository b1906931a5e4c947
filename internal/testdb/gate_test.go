package testdb_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
)

// A stopped statement holds up no other one, and goes on when it is released.
func TestAGateStopsOneStatement(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		db, gate := testdb.OpenGate(t, url)
		_, err := db.Exec(`CREATE TABLE notes (n int)`)
		require.NoError(t, err)
		insert := func(query string, _ []driver.NamedValue) bool { return strings.Contains(query, "INSERT") }
		count := func() (n int) {
			require.NoError(t, db.QueryRow(`SELECT count(*) FROM notes`).Scan(&n))
			return n
		}
		for i, prepared := range []bool{false, true} {
			write := func(ctx context.Context) error {
				_, err := db.ExecContext(ctx, `INSERT INTO notes VALUES ($1)`, i)
				return err
			}
			if prepared {
				stmt, err := db.Prepare(`INSERT INTO notes VALUES ($1)`)
				require.NoError(t, err)
				t.Cleanup(func() { _ = stmt.Close() })
				write = func(ctx context.Context) error {
					_, err := stmt.ExecContext(ctx, i)
					return err
				}
			}
			for _, stop := range []struct {
				next func(testdb.Match) *testdb.Stop
				seen int // while it has stopped
			}{{gate.Before, 2 * i}, {gate.After, 2*i + 2}} {
				at := stop.next(insert)
				written := make(chan error, 1)
				go func() { written <- write(t.Context()) }()
				at.Wait(t)
				require.Equal(t, stop.seen, count())
				require.Empty(t, written)
				at.Release()
				require.NoError(t, <-written)
			}
			require.Equal(t, 2*i+2, count())
		}

		ctx, cancel := context.WithCancel(t.Context())
		before := gate.Before(insert)
		written := make(chan error, 1)
		go func() {
			_, err := db.ExecContext(ctx, `INSERT INTO notes VALUES (1)`)
			written <- err
		}()
		before.Wait(t)
		cancel()
		require.ErrorIs(t, <-written, context.Canceled)
		require.Equal(t, 4, count())
		_, err = db.Exec(`INSERT INTO notes VALUES (1)`)
		require.NoError(t, err, "a stop is for one statement")
		require.ErrorIs(t, db.QueryRow(`SELECT n FROM notes WHERE n = $1`, -1).Scan(new(int)), sql.ErrNoRows)
	})
}
