package beside_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/beside"
)

// Servers that are down do not listen: the port of one must not go to another.
func TestAReservedPortIsNobodyElses(t *testing.T) {
	t.Parallel()
	reserved := map[int]bool{}
	for range 300 {
		port, err := beside.ReservePort()
		require.NoError(t, err)
		t.Cleanup(port.Release)
		require.False(t, reserved[port.Number])
		reserved[port.Number] = true
	}
}
