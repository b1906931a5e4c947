package sqldb_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

type resultCode int

func (c resultCode) Error() string { return fmt.Sprintf("result code %d", int(c)) }
func (c resultCode) Code() int     { return int(c) }

// What only others are the reason of is told by a code, never by words.
func TestCollidedGoesByTheCode(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		resultCode(5):   true, // SQLITE_BUSY
		resultCode(517): true, // SQLITE_BUSY_SNAPSHOT
		resultCode(261): true, // SQLITE_BUSY_RECOVERY
		resultCode(6):   true, // SQLITE_LOCKED
		resultCode(262): true, // SQLITE_LOCKED_SHAREDCACHE
		resultCode(15):  true, // SQLITE_PROTOCOL
		resultCode(19):  false,
		resultCode(787): false, // SQLITE_CONSTRAINT_FOREIGNKEY
		errors.New("database is locked (5) (SQLITE_BUSY)"): false,
		&pq.Error{Code: "40001"}:                           true,
		&pq.Error{Code: "40P01"}:                           true,
		&pq.Error{Code: "23505"}:                           false,
	} {
		require.Equal(t, want, sqldb.Collided(fmt.Errorf("begin: %w", err)), "%v", err)
	}
	require.False(t, sqldb.Collided(nil))
}
