package reprisetest_test

import (
	"context"
	"strings"

	"github.com/reprise-bus/reprise/handlers"
)

type UserSignedUp struct{ ID, Name, Email string }

func (UserSignedUp) EventName() string { return "user.signed_up" }

type TrialGranted struct{ UserID string }

func (TrialGranted) EventName() string { return "trial.granted" }

type placed struct{ ID string }

func (placed) EventName() string { return "order.placed" }

// surname is the mistake of testdata/4711.json.
func surname(name string) string { return strings.Fields(name)[1] }

func nothing[E any](name string, policy ...handlers.Policy) *handlers.Handler {
	return handlers.New(name, func(context.Context, E) error { return nil }, policy...)
}
