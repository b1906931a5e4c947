package actions_test

import (
	"testing"

	"github.com/reprise-bus/reprise/internal/testkit"
)

// A syntax error or a wrong column does not wait for the day on which its statement
// runs.
func TestEveryStatementCanBePrepared(t *testing.T) {
	t.Parallel()
	testkit.PrepareStatements(t)
}
