package queue

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

type state string

func (s state) SQLState() string { return string(s) }
func (s state) Error() string    { return takenMessage + "1 (" + string(s) + ")" }

// database/sql may send a statement twice. That the second sending was refused says
// nothing of the first.
func TestATakenIDKeepsHowOftenTheStatementWasSent(t *testing.T) {
	t.Parallel()
	for times, refused := range map[int]bool{1: true, 2: false} {
		err := insertError(&sqldb.SentError{Err: state(idTaken), Times: times}, false)
		require.ErrorIs(t, err, store.ErrDuplicateID)
		require.Equal(t, refused, sqldb.Refused(err), "sent %d times", times)
	}
}
