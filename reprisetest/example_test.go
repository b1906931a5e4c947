package reprisetest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/reprisetest"
)

// A handler that fails as it did in production.
func ExampleReplay() {
	t := &printed{} // a test's *testing.T
	handler := handlers.New("send-welcome-email", func(_ context.Context, e UserSignedUp) error {
		fmt.Println("welcome,", strings.Fields(e.Name)[1])
		return nil
	})
	result := reprisetest.Replay(t, handler, "testdata/4711.json")
	fmt.Println(result.Status, result.Reproduced)
	// Output:
	// the test fails: reprisetest: handler "send-welcome-email" fails on event "01955180-3c00-7000-8000-000000000001" of topic "user.signed_up" as it did in production (run 4711): panic: panic: runtime error: index out of range [1] with length 1
	// FAILED true
}

// A handler whose mail server is away, by its whole policy.
func ExampleRun() {
	t := &printed{} // a test's *testing.T
	handler := handlers.New("send-welcome-email", func(context.Context, UserSignedUp) error {
		return errors.New("no server")
	})
	result := reprisetest.Run(t, handler, UserSignedUp{ID: "42", Name: "Ada Lovelace"})
	fmt.Println(result.Status, "after", len(result.Attempts), "attempts and", result.Waited)
	// Output:
	// FAILED after 15 attempts and 2h4m15s
}

// What a handler publishes, and another that fails.
func ExampleBus() {
	t := &printed{} // a test's *testing.T
	b := reprisetest.NewBus(t)
	err := b.Handle(
		handlers.New("grant-trial", func(ctx context.Context, e UserSignedUp) error {
			return b.Publish(ctx, TrialGranted{UserID: e.ID})
		}),
		handlers.New("send-welcome-email", func(context.Context, UserSignedUp) error {
			return handlers.Permanent(errors.New("no such address"))
		}),
	)
	fmt.Println(err)
	fmt.Println(b.Publish(t.Context(), UserSignedUp{ID: "42"}))
	fmt.Println(reprisetest.RequirePublished[TrialGranted](t, b))
	fmt.Println(reprisetest.RequireFailed(t, b, "send-welcome-email").Err)
	// Output:
	// <nil>
	// <nil>
	// {42}
	// no such address
}

// printed prints the first line of what it fails by.
type printed struct{ testing.TB }

func (*printed) Helper()                  {}
func (*printed) Context() context.Context { return context.Background() }
func (*printed) Cleanup(func())           {}

func (*printed) Errorf(format string, args ...any) {
	line, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\n")
	fmt.Println("the test fails:", line)
}
