package testdb

import (
	"context"
	"testing"

	"github.com/reprise-bus/reprise/internal/pgserver"
)

// Bouncer starts a PgBouncer in transaction mode in front of the PostgreSQL
// database and returns the database's URL through it. PgBouncer ends when the
// test and its subtests are over. Settings are lines of its configuration, such
// as "default_pool_size = 2".
//
// Without an installed PgBouncer the test fails; it is never skipped.
func Bouncer(t testing.TB, address string, settings ...string) (through string) {
	t.Helper()
	b, err := pgserver.StartBouncer(context.Background(), address, settings...)
	if err != nil {
		t.Fatalf("this test needs a PgBouncer in front of the database: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of PgBouncer ends:\n%s", b.Log())
		}
		b.Stop()
	})
	return b.URL
}
