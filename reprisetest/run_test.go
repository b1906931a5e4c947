package reprisetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/reprisetest"
	"github.com/reprise-bus/reprise/store"
)

// The course of docs/policies.md: fifteen attempts in 2 h 4 min 15 s.
func TestARunTakesItsWholePolicyInNoTime(t *testing.T) {
	t.Parallel()
	began := time.Now()
	var called []string
	note := func(name string) handlers.Callback {
		return func(_ context.Context, run store.Run, cause error) error {
			require.EqualError(t, cause, "no server")
			called = append(called, name+" "+string(run.Status))
			return nil
		}
	}
	down := errors.New("no server")
	result := reprisetest.Run(t, handlers.New("mail", func(context.Context, placed) error { return down }, handlers.Policy{
		OnFailure: note("failure"), OnExhausted: note("exhausted"),
	}), placed{"1"})
	require.Equal(t, store.Failed, result.Status)
	require.ErrorIs(t, result.Err, down)
	require.Equal(t, 2*time.Hour+4*time.Minute+15*time.Second, result.Waited)
	require.Equal(t, []string{"failure PENDING", "failure PENDING", "failure FAILED", "exhausted FAILED"}, called)
	require.Less(t, time.Since(began), time.Minute, "it did not wait")

	require.Len(t, result.Attempts, 15)
	var apart []time.Duration
	for i, a := range result.Attempts {
		require.Equal(t, []any{i + 1, i / 5, store.KindError, "no server"}, []any{a.Attempt, a.Cycle, a.Kind, a.Message})
		if i > 0 {
			apart = append(apart, a.StartedAt.Sub(result.Attempts[i-1].FinishedAt).Round(time.Second))
		}
	}
	cycle := []time.Duration{time.Second, 4 * time.Second, 16 * time.Second, 64 * time.Second}
	want := append(append(append(append(append([]time.Duration(nil), cycle...), time.Hour), cycle...), time.Hour), cycle...)
	require.Equal(t, want, apart, "the clock went on")
}

func TestARunEndsAsItsErrorsSay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		errs   []error // nil when they are used up
		status store.Status
		kinds  []store.Kind
		waited time.Duration
	}{
		"success":    {nil, store.Success, nil, 0},
		"tried":      {[]error{errors.New("a"), errors.New("b")}, store.Success, []store.Kind{store.KindError, store.KindError}, 5 * time.Second},
		"snoozed":    {[]error{handlers.Snooze(time.Minute), handlers.Snooze(time.Minute)}, store.Success, nil, 2 * time.Minute},
		"skipped":    {[]error{handlers.SkipCycle(errors.New("a"))}, store.Success, []store.Kind{store.KindSkipCycle}, time.Hour},
		"permanent":  {[]error{handlers.Permanent(errors.New("a"))}, store.Failed, []store.Kind{store.KindPermanent}, 0},
		"last cycle": {[]error{handlers.SkipCycle(errors.New("a")), handlers.SkipCycle(errors.New("a"))}, store.Failed, []store.Kind{store.KindSkipCycle, store.KindSkipCycle}, time.Hour},
	} {
		calls := 0
		result := reprisetest.Run(t, handlers.New("mail", func(context.Context, placed) error {
			if calls++; calls <= len(c.errs) {
				return c.errs[calls-1]
			}
			return nil
		}, handlers.Policy{Cycles: 2}), placed{"1"})
		var kinds []store.Kind
		for _, a := range result.Attempts {
			kinds = append(kinds, a.Kind)
		}
		require.Equal(t, []any{c.status, c.kinds, c.waited}, []any{result.Status, kinds, result.Waited}, name)
		require.Equal(t, c.status == store.Failed, result.Err != nil, name)
	}
}

// A snooze gives the try back, and a handler reads its tries.
func TestAHandlerSeesWhichTryItIs(t *testing.T) {
	t.Parallel()
	var seen [][3]int
	result := reprisetest.Run(t, handlers.New("mail", func(ctx context.Context, _ placed) error {
		d, _ := handlers.DeliveryFrom(ctx)
		seen = append(seen, [3]int{d.Run().Attempt, d.Run().Tries, d.Run().Cycle})
		if len(seen) == 2 {
			return handlers.Snooze(time.Second)
		}
		return errors.New("no")
	}, handlers.Policy{Attempts: 2, Cycles: 2}), placed{"1"})
	require.Equal(t, store.Failed, result.Status)
	require.Equal(t, [][3]int{{1, 1, 0}, {2, 2, 0}, {3, 2, 0}, {4, 1, 1}, {5, 2, 1}}, seen)
}

// A reminder for tomorrow is sent tomorrow, by the clock that is set forward.
func TestAHandlerSeesHowLongAgoItsEventWasPublished(t *testing.T) {
	t.Parallel()
	var errs []string
	result := reprisetest.Run(t, handlers.New("remind", func(ctx context.Context, _ placed) error {
		d, _ := handlers.DeliveryFrom(ctx)
		run := d.Run()
		errs = append(errs, run.Error)
		switch age := run.StartedAt.Sub(run.PublishedAt); {
		case len(errs) == 1:
			return errors.New("not yet")
		case age < 24*time.Hour:
			return handlers.Snooze(time.Hour)
		}
		return nil
	}), placed{"1"})
	require.Equal(t, store.Success, result.Status)
	require.Equal(t, 24*time.Hour+time.Second, result.Waited)
	require.Equal(t, []string{"", "not yet"}, errs[:2])
}

func TestACallbackThatFailsIsAnAttempt(t *testing.T) {
	t.Parallel()
	result := reprisetest.Run(t, handlers.New("mail", func(context.Context, placed) error { panic("no") }, handlers.Policy{
		Attempts: 1, Cycles: 1, OnExhausted: func(context.Context, store.Run, error) error { return errors.New("no tickets") },
	}), placed{"1"})
	require.Len(t, result.Attempts, 2)
	require.Equal(t, store.KindPanic, result.Attempts[0].Kind)
	require.Contains(t, result.Attempts[0].Stack, "run_test.go")
	require.Equal(t, store.KindCallback, result.Attempts[1].Kind)
	require.Equal(t, "OnExhausted: no tickets", result.Attempts[1].Message)
	var panicked *handlers.PanicError
	require.ErrorAs(t, result.Err, &panicked)
}

func TestInABubbleATimeoutTakesNoTimeEither(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		result := reprisetest.Run(t, handlers.New("mail", func(ctx context.Context, _ placed) error {
			<-ctx.Done()
			return ctx.Err()
		}, handlers.Policy{Attempts: 2, Cycles: 1, Timeout: time.Hour}), placed{"1"})
		require.Equal(t, store.Failed, result.Status)
		require.Equal(t, store.KindTimeout, result.Attempts[1].Kind)
		require.Equal(t, time.Hour, result.Attempts[0].FinishedAt.Sub(result.Attempts[0].StartedAt))
	})
}

func TestARunOfProductionsEvent(t *testing.T) {
	t.Parallel()
	d := reprisetest.Load(t, file)
	exhausted := 0
	result := reprisetest.Run(t, handlers.New("send-welcome-email", func(_ context.Context, e UserSignedUp) error {
		return errors.New(surname(e.Name))
	}, handlers.Policy{Attempts: 2, Cycles: 1, OnExhausted: func(context.Context, store.Run, error) error {
		exhausted++
		return nil
	}}), d)
	require.True(t, result.Reproduced)
	require.Equal(t, store.Failed, result.Status)
	require.Equal(t, 17, result.Attempts[1].Attempt, "numbers go on")
	require.Equal(t, 1, exhausted)

	result = reprisetest.Run(t, welcome(handlers.Permanent(errors.New("one name only"))), d)
	require.False(t, result.Reproduced)
	require.False(t, reprisetest.Run(t, welcome(nil), d).Reproduced)
}

// What a handler requires of its test ends the test.
func TestAHandlerMayEndTheTest(t *testing.T) {
	t.Parallel()
	message := failures(t, func(t testing.TB) {
		reprisetest.Run(t, handlers.New("mail", func(context.Context, placed) error {
			t.Fatalf("it is not so")
			return nil
		}), placed{"1"})
		t.Errorf("the test went on")
	})
	require.Equal(t, "it is not so", message)
}

func TestWhatCannotRunSaysWhy(t *testing.T) {
	t.Parallel()
	for want, run := range map[string]func(t testing.TB){
		"the event is nil": func(t testing.TB) { reprisetest.Run(t, nothing[placed]("mail"), nil) },
		"has no name":      func(t testing.TB) { reprisetest.Run(t, nothing[placed]("mail"), 1) },
		`event "order.placed": json: unsupported type`: func(t testing.TB) { reprisetest.Run(t, nothing[placed]("mail"), unmarshallable{}) },
		`handler "mail" takes events on topic "order.placed", and would never get this reprisetest_test.UserSignedUp on topic "user.signed_up"`: func(t testing.TB) {
			reprisetest.Run(t, nothing[placed]("mail"), UserSignedUp{})
		},
		`handler "mail": policy: field Attempts -1`: func(t testing.TB) {
			reprisetest.Run(t, nothing[placed]("mail", handlers.Policy{Attempts: -1}), placed{"1"})
		},
		"does it snooze for ever?": func(t testing.TB) {
			reprisetest.Run(t, handlers.New("mail", func(context.Context, placed) error { return handlers.Snooze(time.Hour) }), placed{"1"})
		},
		"give it a database with reprisetest.WithDB(db)": func(t testing.TB) {
			reprisetest.Run(t, nothing[placed]("mail", handlers.Policy{Transactional: true}), placed{"1"})
		},
	} {
		require.Contains(t, failures(t, run), want)
	}
}

type unmarshallable struct{ C chan int }

func (unmarshallable) EventName() string { return "order.placed" }

func TestATransactionalHandlersTransactionEndsAsItsAttempt(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		db := testdb.Open(t, url)
		_, err := db.ExecContext(t.Context(), `CREATE TABLE orders (id text)`)
		require.NoError(t, err)
		ends := map[string]func(ctx context.Context) error{
			"error": func(context.Context) error { return errors.New("no") },
			"panic": func(context.Context) error { panic("no") },
			"late":  func(ctx context.Context) error { <-ctx.Done(); return nil },
			"good":  func(context.Context) error { return nil },
		}
		statuses := map[string]store.Status{}
		for id, end := range ends {
			timeout := time.Minute
			if id == "late" {
				timeout = 100 * time.Millisecond
			}
			result := reprisetest.Run(t, handlers.New("orders", func(ctx context.Context, e placed) error {
				tx, ok := handlers.Tx(ctx)
				require.True(t, ok)
				if _, err := tx.ExecContext(context.WithoutCancel(ctx), tx.Rebind(`INSERT INTO orders VALUES (?)`), e.ID); err != nil {
					return err
				}
				return end(ctx)
			}, handlers.Policy{Attempts: 1, Cycles: 1, Transactional: true, Timeout: timeout}), placed{id}, reprisetest.WithDB(db))
			statuses[id] = result.Status
		}
		require.Equal(t, map[string]store.Status{"error": store.Failed, "panic": store.Failed, "late": store.Failed, "good": store.Success}, statuses)
		require.Equal(t, []string{"good"}, ids(t, db))
	})
}

func TestTheApplicationsMarshalerAndMiddlewareAreAroundTheHandler(t *testing.T) {
	t.Parallel()
	var order []string
	note := func(name string) message.HandlerMiddleware {
		return func(next message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				order = append(order, name)
				_, limited := msg.Context().Deadline()
				require.False(t, limited, "the timeout is the handler's")
				return next(msg)
			}
		}
	}
	result := reprisetest.Run(t, cqrs.NewEventHandler("mail", func(ctx context.Context, e *string) error {
		require.Equal(t, "text", *e)
		require.Equal(t, "string", cqrs.OriginalMessageFromCtx(ctx).Metadata.Get("name"))
		return nil
	}), "text", reprisetest.WithMarshaler(cqrs.JSONMarshaler{}), reprisetest.WithMiddleware(note("outer"), note("inner")))
	require.NoError(t, result.Err)
	require.Equal(t, []string{"outer", "inner"}, order)
}
