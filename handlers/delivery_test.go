package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// leased is a run of handler mail as a claim leaves it.
func leased(tries, cycle int) store.Run {
	return store.Run{
		ID: 7, EventID: "e", Topic: "orders", Handler: "mail", Status: store.Pending,
		Attempt: 12, Tries: tries, Cycle: cycle, Key: "k", Instance: "a",
	}
}

// reported is what a delivery told of its end.
type reported struct {
	mu       sync.Mutex
	outcomes []queue.Outcome
	written  []bool
	err      error // what report returns
}

func (r *reported) report(o queue.Outcome, written bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes, r.written = append(r.outcomes, o), append(r.written, written)
	return r.err
}

// deliver makes a delivery of the policy and ends it with err.
func deliver(ctx context.Context, t require.TestingT, run store.Run, p handlers.Policy, err error) queue.Outcome {
	var r reported
	require.NoError(t, handlers.NewDelivery(&run, &p, r.report).End(ctx, err))
	require.Len(t, r.outcomes, 1)
	require.Equal(t, []bool{false}, r.written)
	require.Equal(t, queue.LeaseOf(run), r.outcomes[0].Lease)
	return r.outcomes[0]
}

func TestEndReportsWhatThePolicyDecides(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, errCause, handlers.Permanent(errCause), handlers.SkipCycle(errCause), handlers.Snooze(time.Hour), store.ErrLeaseLost} {
		for _, place := range places {
			run := leased(place.tries, place.cycle)
			want := decided.Decide(run, err)
			want.Lease = queue.LeaseOf(run)
			require.Equal(t, want, deliver(t.Context(), t, run, decided, err))
		}
	}
}

func TestEndReturnsTheErrorOfItsReportOnce(t *testing.T) {
	t.Parallel()
	down := errors.New("the database is down")
	r := reported{err: down}
	d := handlers.NewDelivery(new(leased(1, 0)), &decided, r.report)
	require.ErrorIs(t, d.End(t.Context(), errCause), down)
	require.NoError(t, d.End(t.Context(), errCause))
	require.Len(t, r.outcomes, 1)
}

func TestTheFirstEndCounts(t *testing.T) {
	t.Parallel()
	run := leased(3, 1)
	interrupted := queue.Outcome{Status: store.Pending, Refund: true}
	ends := map[string]func(d *handlers.Delivery) bool{
		"success":   func(d *handlers.Delivery) bool { return d.End(t.Context(), nil) == nil },
		"failure":   func(d *handlers.Delivery) bool { return d.End(t.Context(), handlers.Permanent(errCause)) == nil },
		"abort":     func(d *handlers.Delivery) bool { return d.Abort(interrupted) },
		"committed": func(d *handlers.Delivery) bool { d.Committed(); return true },
	}
	want := map[string]queue.Outcome{
		"success":   {Status: store.Success},
		"failure":   decided.Decide(run, handlers.Permanent(errCause)),
		"abort":     interrupted,
		"committed": {Status: store.Success},
	}
	for first, end := range ends {
		var r reported
		policy := decided
		calls := 0
		policy.OnFailure = func(context.Context, store.Run, error) error { calls++; return nil }
		d := handlers.NewDelivery(&run, &policy, r.report)
		require.True(t, end(d), first)
		for _, later := range ends {
			later(d)
		}
		require.False(t, d.Abort(interrupted), "it has ended: %s", first)

		expected := want[first]
		expected.Lease = queue.LeaseOf(run)
		require.Equal(t, []queue.Outcome{expected}, r.outcomes)
		require.Equal(t, []bool{first == "committed"}, r.written)
		if first == "failure" {
			require.Equal(t, 1, calls)
		} else {
			require.Zero(t, calls, "a later end calls nobody: %s", first)
		}
	}
}

func TestOneEndCountsOfManyAtOnce(t *testing.T) {
	t.Parallel()
	for range 200 {
		var (
			r       reported
			d       = handlers.NewDelivery(new(leased(1, 0)), &decided, r.report)
			start   = make(chan struct{})
			all     sync.WaitGroup
			aborted atomic.Int32
		)
		for i := range 16 {
			all.Go(func() {
				<-start
				switch i % 4 {
				case 0:
					_ = d.End(t.Context(), nil)
				case 1:
					_ = d.End(t.Context(), errCause)
				case 2:
					if d.Abort(queue.Outcome{Status: store.Pending, Refund: true}) {
						aborted.Add(1)
					}
				case 3:
					d.Committed()
				}
			})
		}
		close(start)
		all.Wait()
		require.Len(t, r.outcomes, 1)
		require.EqualValues(t, 7, r.outcomes[0].Lease.RunID)
		if r.outcomes[0].Refund {
			require.EqualValues(t, 1, aborted.Load(), "the abort that counted knows it")
		} else {
			require.Zero(t, aborted.Load(), "no abort counted")
		}
	}
}

func TestADeliveryTravelsInTheContext(t *testing.T) {
	t.Parallel()
	_, ok := handlers.DeliveryFrom(t.Context())
	require.False(t, ok)
	run := leased(1, 0)
	d := handlers.NewDelivery(&run, &decided, new(reported).report)
	found, ok := handlers.DeliveryFrom(handlers.WithDelivery(t.Context(), d))
	require.True(t, ok)
	require.Same(t, d, found)
	require.Equal(t, run, found.Run())
}

func TestWhoIsCalledWhenARunFails(t *testing.T) {
	t.Parallel()
	const failure, exhausted = "OnFailure", "OnExhausted"
	for _, c := range []struct {
		name         string
		tries, cycle int
		err          error
		want         []string
	}{
		{"success", 3, 1, nil, nil},
		{"tries left", 1, 0, errCause, nil},
		{"tries left in the last cycle", 2, 1, errCause, nil},
		{"snooze on the last try", 3, 1, handlers.Snooze(1), nil},
		{"cycle failed", 3, 0, errCause, []string{failure}},
		{"cycle skipped", 1, 0, handlers.SkipCycle(errCause), []string{failure}},
		{"last cycle failed", 3, 1, errCause, []string{failure, exhausted}},
		{"last cycle skipped", 1, 1, handlers.SkipCycle(errCause), []string{failure, exhausted}},
		{"permanent", 1, 0, handlers.Permanent(errCause), []string{failure, exhausted}},
		{"undecodable", 1, 0, handlers.Undecodable(errCause), []string{failure, exhausted}},
		{"panic on the last try", 3, 1, &handlers.PanicError{Value: "boom"}, []string{failure, exhausted}},
		{"tries used up before", 4, 0, handlers.LastError(store.Run{}), []string{failure}},
		{"tries used up before, in the last cycle", 4, 1, handlers.LastError(store.Run{}), []string{failure, exhausted}},
		{"lease lost on the last try", 3, 1, fmt.Errorf("commit: %w", store.ErrLeaseLost), nil},
		{"lease lost, with an error of its own", 1, 0, errors.Join(handlers.Permanent(errCause), store.ErrLeaseLost), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var called []string
			p := decided
			callback := func(name string) handlers.Callback {
				return func(ctx context.Context, run store.Run, cause error) error {
					called = append(called, name)
					require.Same(t, t.Context(), ctx.Value(marker{}), "the context is the delivery's")
					require.Equal(t, c.err, cause)
					f := handlers.Failure("mail", c.err)
					want := leased(c.tries, c.cycle)
					want.ErrorKind, want.Error, want.Fingerprint = f.Kind, f.Message, f.Fingerprint
					if len(c.want) == 2 {
						want.Status = store.Failed
					} else {
						require.WithinDuration(t, time.Now().Add(p.CycleInterval), run.DueAt, time.Minute, "the next cycle")
						want.DueAt = run.DueAt
					}
					require.Equal(t, want, run, "the run as it was, but for its status and its last error")
					return nil
				}
			}
			ctx := context.WithValue(t.Context(), marker{}, t.Context())
			p.OnFailure, p.OnExhausted = callback(failure), callback(exhausted)
			o := deliver(ctx, t, leased(c.tries, c.cycle), p, c.err)
			require.Equal(t, c.want, called)
			require.Nil(t, o.Callback)

			// Either may be missing.
			var alone []string
			called, p.OnExhausted = nil, nil
			deliver(ctx, t, leased(c.tries, c.cycle), p, c.err)
			alone = append(alone, called...)
			called, p.OnFailure, p.OnExhausted = nil, nil, callback(exhausted)
			deliver(ctx, t, leased(c.tries, c.cycle), p, c.err)
			require.Equal(t, c.want, append(alone, called...))
		})
	}
}

type marker struct{}

func TestCallbacksAreCalledBeforeTheEndIsReported(t *testing.T) {
	t.Parallel()
	var r reported
	p := decided
	p.OnFailure = func(context.Context, store.Run, error) error {
		require.Empty(t, r.outcomes)
		return nil
	}
	p.OnExhausted = p.OnFailure
	require.NoError(t, handlers.NewDelivery(new(leased(1, 0)), &p, r.report).End(t.Context(), handlers.Permanent(errCause)))
	require.Len(t, r.outcomes, 1)
}

func TestOnExhaustedIsCalledOnceInTheLifeOfARun(t *testing.T) {
	t.Parallel()
	failures, exhausted := 0, 0
	p := decided
	p.OnFailure = func(context.Context, store.Run, error) error { failures++; return nil }
	p.OnExhausted = func(context.Context, store.Run, error) error { exhausted++; return nil }
	for run := leased(0, 0); ; {
		run.Tries++
		o := deliver(t.Context(), t, run, p, errCause)
		if o.Status == store.Failed {
			break
		}
		require.Zero(t, exhausted)
		if o.NextCycle {
			run.Cycle, run.Tries = run.Cycle+1, 0
		}
	}
	require.Equal(t, 1, exhausted)
	require.Equal(t, decided.Cycles, failures)
}

func TestACallbackThatFailsIsKeptAndChangesNothingElse(t *testing.T) {
	t.Parallel()
	fails := func(err error) handlers.Callback {
		return func(context.Context, store.Run, error) error { return err }
	}
	panics := func(value any) handlers.Callback {
		return func(context.Context, store.Run, error) error { panic(value) }
	}
	exits := func(context.Context, store.Run, error) error { runtime.Goexit(); return nil }
	for _, c := range []struct {
		name                   string
		onFailure, onExhausted handlers.Callback
		want                   string
		stacks                 int
	}{
		{"first", fails(errors.New("no pager")), fails(nil), "OnFailure: no pager", 0},
		{"second", fails(nil), fails(errors.New("no mail")), "OnExhausted: no mail", 0},
		{"both", fails(errors.New("no pager")), fails(errors.New("no mail")), "OnFailure: no pager; OnExhausted: no mail", 0},
		{"marks mean nothing", fails(handlers.Snooze(time.Hour)), fails(handlers.SkipCycle(errCause)), "OnFailure: snoozed for 1h0m0s; OnExhausted: cause", 0},
		{"panic", panics("boom"), fails(errors.New("no mail")), "OnFailure: panic: boom; OnExhausted: no mail", 1},
		{"goexit", exits, fails(errors.New("no mail")), "OnFailure: the callback called runtime.Goexit; OnExhausted: no mail", 0},
		{"both panic", panics(errCause), panics(42), "OnFailure: panic: cause; OnExhausted: panic: 42", 2},
	} {
		p := decided
		p.OnFailure, p.OnExhausted = c.onFailure, c.onExhausted
		o := deliver(t.Context(), t, leased(1, 0), p, handlers.Permanent(errCause))
		require.Equal(t, store.Failed, o.Status, c.name)
		require.Equal(t, "cause", o.Failure.Message, c.name)
		require.NotNil(t, o.Callback, c.name)
		require.Equal(t, store.KindCallback, o.Callback.Kind, c.name)
		require.Equal(t, c.want, o.Callback.Message, c.name)
		require.Empty(t, o.Callback.Fingerprint, "no failure group is made of it: %s", c.name)
		if c.stacks == 0 {
			require.Empty(t, o.Callback.Stack, c.name)
		} else {
			require.Contains(t, o.Callback.Stack, "TestACallbackThatFailsIsKeptAndChangesNothingElse", c.name)
		}

		o = deliver(t.Context(), t, leased(3, 0), p, errCause)
		require.True(t, o.NextCycle, "the next cycle comes all the same: %s", c.name)
		require.Equal(t, decided.CycleInterval, o.Delay, c.name)
	}
}

func TestACallbackGetsAsLongAsAnAttempt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		timeout, want time.Duration // want 0 is for ever
	}{{0, time.Minute}, {time.Second, time.Second}, {-1, 0}} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			p := handlers.Policy{Timeout: c.timeout, OnFailure: func(ctx context.Context, _ store.Run, _ error) error {
				deadline, ok := ctx.Deadline()
				require.Equal(t, c.want > 0, ok)
				if !ok {
					return nil
				}
				require.Equal(t, c.want, deadline.Sub(began))
				<-ctx.Done()
				return context.Cause(ctx)
			}}
			p.OnExhausted = func(ctx context.Context, run store.Run, cause error) error {
				require.NoError(t, ctx.Err(), "one that overruns takes nothing from the other")
				began = time.Now()
				return p.OnFailure(ctx, run, cause)
			}
			o := deliver(t.Context(), t, leased(1, 0), p, handlers.Permanent(errCause))
			if c.want == 0 {
				require.Nil(t, o.Callback)
				return
			}
			over := fmt.Sprintf("the callback's timeout of %v is over", c.want)
			require.Equal(t, "OnFailure: "+over+"; OnExhausted: "+over, o.Callback.Message)
		})
	}
}

func TestACallbackIsCancelledWithItsParent(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	p := handlers.Policy{OnFailure: func(ctx context.Context, _ store.Run, _ error) error {
		cancel(errors.New("shutting down"))
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	o := deliver(ctx, t, leased(1, 0), p, handlers.Permanent(errCause))
	require.Equal(t, "OnFailure: shutting down", o.Callback.Message)
	require.Equal(t, store.Failed, o.Status)
}

func TestACallbackMayWorkOnTheRunAsItLikes(t *testing.T) {
	t.Parallel()
	p := decided
	p.OnFailure = func(_ context.Context, run store.Run, _ error) error {
		run.ID, run.Instance, run.Status = 0, "", store.Success
		return nil
	}
	p.OnExhausted = func(_ context.Context, run store.Run, _ error) error {
		require.EqualValues(t, 7, run.ID)
		require.Equal(t, store.Failed, run.Status)
		return nil
	}
	deliver(t.Context(), t, leased(3, 1), p, errCause)
}

func TestAnAbortDuringACallbackLeavesTheHandlersOutcome(t *testing.T) {
	t.Parallel()
	for _, place := range []struct{ tries, cycle int }{{3, 0}, {3, 1}} {
		var r reported
		called, back := make(chan struct{}), make(chan struct{})
		p := decided
		p.OnFailure = func(context.Context, store.Run, error) error {
			close(called)
			<-back
			return errors.New("nobody hears this")
		}
		run := leased(place.tries, place.cycle)
		d := handlers.NewDelivery(&run, &p, r.report)
		ended := make(chan error)
		go func() { ended <- d.End(t.Context(), errCause) }()
		<-called
		require.True(t, d.Abort(queue.Outcome{Status: store.Pending, Refund: true}))
		close(back)
		require.NoError(t, <-ended)

		want := decided.Decide(run, errCause)
		want.Lease = queue.LeaseOf(run)
		want.Callback = &store.Failure{Kind: store.KindCallback, Message: "the process shut down before the callback had returned"}
		require.Equal(t, []queue.Outcome{want}, r.outcomes, "what was told to the callback is what happens")
	}
}

type nilError struct{ s string }

func (n *nilError) Error() string { return n.s }

// The classic: a nil pointer returned as an error, whose text nobody can read.
func TestAnErrorThatPanicsIsAFailureLikeAnother(t *testing.T) {
	t.Parallel()
	var broken *nilError
	for name, err := range map[string]error{
		"bare":    broken,
		"wrapped": handlers.Permanent(broken),
		"joined":  errors.Join(errors.New("another"), broken),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reported := make(chan queue.Outcome, 1)
			d := handlers.NewDelivery(&store.Run{ID: 7, Handler: "h", Tries: 1}, &handlers.Policy{
				Attempts: 1, Cycles: 1,
				OnFailure: func(context.Context, store.Run, error) error { return broken },
			}, func(o queue.Outcome, _ bool) error { reported <- o; return nil })
			require.NoError(t, d.End(t.Context(), err))
			o := <-reported
			require.Equal(t, store.Failed, o.Status)
			require.Equal(t, store.KindPanic, o.Failure.Kind)
			require.Contains(t, o.Failure.Message, "whose methods panic")
			require.NotEmpty(t, o.Failure.Stack)
			require.Contains(t, o.Callback.Message, "OnFailure: ")
			require.Contains(t, o.Callback.Message, "*handlers_test.nilError")
		})
	}
}
