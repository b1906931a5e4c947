package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// decided is the policy of the decision table.
var decided = handlers.Policy{
	Attempts: 3, Cycles: 2, CycleInterval: 30 * time.Minute,
	Backoff: handlers.Backoff{Initial: 10 * time.Second, Factor: 2, Jitter: -1},
}

// The places of a run in the life that the policy gives it, and what becomes
// of it there when the error is one that another try may mend, or one that
// only another cycle may mend.
var places = []struct {
	name         string
	tries, cycle int
	retried      queue.Outcome
	skipped      queue.Outcome
}{
	{"first try", 1, 0, again(10 * time.Second), nextCycle},
	{"second try", 2, 0, again(20 * time.Second), nextCycle},
	{"last try of the first cycle", 3, 0, nextCycle, nextCycle},
	{"first try of the last cycle", 1, 1, again(10 * time.Second), failed},
	{"last try of the last cycle", 3, 1, failed, failed},
	{"more tries than the policy has now", 4, 0, nextCycle, nextCycle},
	{"more tries than the policy has now, in the last cycle", 7, 1, failed, failed},
	{"more cycles than the policy has now", 2, 5, again(20 * time.Second), failed},
	{"last try of more cycles than the policy has now", 3, 5, failed, failed},
}

var (
	nextCycle = queue.Outcome{Status: store.Pending, Delay: 30 * time.Minute, NextCycle: true}
	failed    = queue.Outcome{Status: store.Failed}
)

func again(delay time.Duration) queue.Outcome {
	return queue.Outcome{Status: store.Pending, Delay: delay}
}

func TestWhatBecomesOfARunThatFailed(t *testing.T) {
	t.Parallel()
	for _, e := range []struct {
		name string
		err  error
		kind store.Kind
	}{
		{"ordinary", errCause, store.KindError},
		{"cancelled", context.Canceled, store.KindError},
		{"deadline", context.DeadlineExceeded, store.KindError},
		{"permanent", handlers.Permanent(errCause), store.KindPermanent},
		{"skip", handlers.SkipCycle(errCause), store.KindSkipCycle},
		{"undecodable", handlers.Undecodable(errCause), store.KindUndecodable},
		{"late", &handlers.TimeoutError{Timeout: time.Minute, Err: errCause}, store.KindTimeout},
		{"panic", &handlers.PanicError{Value: "boom", Stack: "stack"}, store.KindPanic},
		{"recovered", wmiddleware.RecoveredPanicError{V: "boom", Stacktrace: "stack"}, store.KindPanic},
		{"nacked", handlers.ErrNacked, store.KindNack},
		{"lost", handlers.EventLost("the event is gone"), store.KindLost},
		{"abandoned", handlers.LastError(store.Run{}), store.KindAbandoned},
		{"on record", handlers.LastError(store.Run{ErrorKind: store.KindTimeout, Error: "too late"}), store.KindTimeout},
		{"on record, permanent", handlers.LastError(store.Run{ErrorKind: store.KindPermanent, Error: "no"}), store.KindPermanent},
		{"on record, skip", handlers.LastError(store.Run{ErrorKind: store.KindSkipCycle, Error: "not now"}), store.KindSkipCycle},
		{"permanent, late", &handlers.TimeoutError{Timeout: time.Minute, Err: handlers.Permanent(errCause)}, store.KindPermanent},
		{"skip, late", &handlers.TimeoutError{Timeout: time.Minute, Err: handlers.SkipCycle(errCause)}, store.KindSkipCycle},
		{"late, then marked", handlers.Permanent(&handlers.TimeoutError{Timeout: time.Minute, Err: errCause}), store.KindPermanent},
		{"marked twice, skip inside", handlers.Permanent(handlers.SkipCycle(errCause)), store.KindPermanent},
		{"marked twice, permanent inside", handlers.SkipCycle(handlers.Permanent(errCause)), store.KindPermanent},
		{"undecodable and permanent", handlers.Permanent(handlers.Undecodable(errCause)), store.KindUndecodable},
		{"undecodable and skip", handlers.Undecodable(handlers.SkipCycle(errCause)), store.KindUndecodable},
		{"two of a kind", handlers.SkipCycle(handlers.SkipCycle(errCause)), store.KindSkipCycle},
		{"panic with a mark", &handlers.PanicError{Value: handlers.Permanent(errCause)}, store.KindPanic},
		{"panic with a snooze", &handlers.PanicError{Value: handlers.Snooze(time.Hour)}, store.KindPanic},
		{"recovered, with a mark", handlers.Permanent(wmiddleware.RecoveredPanicError{V: errCause}), store.KindPanic},
		{"permanent snooze", handlers.Permanent(handlers.Snooze(time.Hour)), store.KindPermanent},
		{"skip and snooze", errors.Join(handlers.Snooze(time.Hour), handlers.SkipCycle(errCause)), store.KindSkipCycle},
		{"undecodable snooze", handlers.Undecodable(handlers.Snooze(time.Hour)), store.KindUndecodable},
	} {
		for wrapped, err := range wrappings(e.err) {
			for _, place := range places {
				want := place.retried
				switch e.kind {
				case store.KindPermanent, store.KindUndecodable, store.KindLost:
					want = failed
				case store.KindSkipCycle:
					want = place.skipped
				}
				run := store.Run{Handler: "mail", Tries: place.tries, Cycle: place.cycle}
				got := decided.Decide(run, err)
				require.NotNil(t, got.Failure)
				require.Equal(t, e.kind, got.Failure.Kind, "%s, %s", e.name, wrapped)
				require.Equal(t, store.Fingerprint("mail", e.kind, got.Failure.Message), got.Failure.Fingerprint)
				got.Failure, got.OnRecord = nil, false // see TestWhatIsOnRecordIsNotKeptTwice
				require.Equal(t, want, got, "%s, %s, %s", e.name, wrapped, place.name)
			}
		}
	}
}

// A cycle that ends by an earlier attempt's error had no attempt of its own.
func TestWhatIsOnRecordIsNotKeptTwice(t *testing.T) {
	t.Parallel()
	run := store.Run{Handler: "mail", Tries: 9, ErrorKind: store.KindAbandoned, Error: "it died"}
	require.True(t, decided.Decide(run, handlers.LastError(run)).OnRecord)
	for _, err := range []error{errCause, handlers.LastError(store.Run{}), handlers.EventLost("gone"), handlers.ErrNacked} {
		require.False(t, decided.Decide(run, err).OnRecord, "%v", err)
	}
}

var errCause = errors.New("cause")

// wrappings returns the error as handlers return it.
func wrappings(err error) map[string]error {
	return map[string]error{
		"as it is":     err,
		"wrapped":      fmt.Errorf("send: %w", err),
		"twice":        fmt.Errorf("handle: %w", fmt.Errorf("send: %w", err)),
		"joined":       errors.Join(errors.New("close: broken"), err),
		"joined first": errors.Join(err, errors.New("close: broken")),
		"one of two":   fmt.Errorf("%w, then %w", errors.New("close: broken"), err),
	}
}

func TestTheRecordedMessageIsTheWholeError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err         error
		want, stack string
	}{
		{fmt.Errorf("send: %w", handlers.Permanent(errCause)), "send: cause", ""},
		{errors.Join(errCause, handlers.SkipCycle(errors.New("other"))), "cause\nother", ""},
		{&handlers.TimeoutError{Timeout: time.Minute, Err: errCause}, "the timeout of 1m0s was over: cause", ""},
		{&handlers.PanicError{Value: "boom", Stack: "its stack"}, "panic: boom", "its stack"},
		{fmt.Errorf("send: %w", &handlers.PanicError{Value: errCause, Stack: "its stack"}), "send: panic: cause", "its stack"},
		{&handlers.PanicError{}, "panic: <nil>", ""},
		{fmt.Errorf("send: %w", wmiddleware.RecoveredPanicError{V: "boom", Stacktrace: "its stack"}), "panic: boom", "its stack"},
		{handlers.ErrNacked, "the message was nacked", ""},
	} {
		f := handlers.Failure("mail", c.err)
		require.Equal(t, c.want, f.Message)
		require.Equal(t, c.stack, f.Stack)
	}
}

func TestASnoozeCostsNothingAnywhere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		asked, want time.Duration
	}{{time.Hour, time.Hour}, {0, handlers.MinSnooze}, {-time.Hour, handlers.MinSnooze}, {time.Millisecond, handlers.MinSnooze}, {century, century}} {
		for wrapped, err := range wrappings(handlers.Snooze(c.asked)) {
			for _, place := range places {
				require.Equal(t, queue.Outcome{Status: store.Pending, Delay: c.want, Refund: true},
					decided.Decide(store.Run{Tries: place.tries, Cycle: place.cycle}, err), "%s, %s", wrapped, place.name)
			}
		}
	}
	late := &handlers.TimeoutError{Timeout: time.Minute, Err: handlers.Snooze(time.Hour)}
	require.True(t, decided.Decide(store.Run{Tries: 3, Cycle: 1}, late).Refund, "what the handler returns counts, whenever it does")
}

// A handler that snoozes for ever does not do so unseen.
func TestARunThatSnoozesTooOftenIsFailed(t *testing.T) {
	t.Parallel()
	again := queue.Outcome{Status: store.Pending, Delay: time.Hour, Refund: true}
	for _, c := range []struct {
		most     int
		attempt  int // on the first try
		replay   int64
		isFailed bool
	}{
		{0, 1, 0, false}, {0, 10_000, 0, false}, {0, 10_001, 0, true}, {0, 12_345, 0, true},
		{3, 3, 0, false}, {3, 4, 0, true},
		{-1, 1_000_000, 0, false},
		{3, 4, 7, true}, {3, 5, 7, false}, {3, 6, 7, false}, {3, 7, 7, true}, // replayed: it gets as many again
	} {
		p := handlers.Policy{MaxSnoozes: c.most}
		require.NoError(t, p.Validate())
		o := p.Decide(store.Run{Handler: "remind", Attempt: c.attempt, Tries: 1, ReplayID: c.replay}, handlers.Snooze(time.Hour))
		if !c.isFailed {
			require.Equal(t, again, o, "%+v", c)
			continue
		}
		require.Equal(t, store.Failed, o.Status, "%+v", c)
		require.Equal(t, store.KindSnooze, o.Failure.Kind)
		require.Contains(t, o.Failure.Message, "Policy.MaxSnoozes allows ")
		require.Contains(t, o.Failure.Message, "snoozed for 1h0m0s")
		require.NotEmpty(t, o.Failure.Fingerprint)
	}
}

func TestNoErrorIsASuccessAnywhere(t *testing.T) {
	t.Parallel()
	for _, place := range places {
		require.Equal(t, queue.Outcome{Status: store.Success}, decided.Decide(store.Run{Tries: place.tries, Cycle: place.cycle}, nil))
	}
}

func TestDecideFillsTheDefaultsIn(t *testing.T) {
	t.Parallel()
	var p handlers.Policy
	require.False(t, p.Decide(store.Run{Tries: 4}, errCause).NextCycle)
	o := p.Decide(store.Run{Tries: 5, Cycle: 1}, errCause)
	require.True(t, o.NextCycle)
	require.Equal(t, time.Hour, o.Delay)
	require.Equal(t, store.Failed, p.Decide(store.Run{Tries: 5, Cycle: 2}, errCause).Status)
}

func TestARunIsExhaustedByTriesBeforeTheCurrentOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy handlers.Policy
		tries  int
		want   bool
	}{
		{decided, 1, false}, {decided, 3, false}, {decided, 4, true}, {decided, 100, true},
		{handlers.Policy{}, 5, false}, {handlers.Policy{}, 6, true},
	} {
		require.Equal(t, c.want, c.policy.Exhausted(store.Run{Tries: c.tries, Cycle: 1}))
	}
}

func TestAnExhaustedRunNeverGetsAnotherTryInItsCycle(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, run := policy(t), store.Run{Tries: rapid.IntRange(1, 100).Draw(t, "tries"), Cycle: rapid.IntRange(0, 9).Draw(t, "cycle")}
		run.ErrorKind = rapid.SampledFrom([]store.Kind{
			"", store.KindError, store.KindPermanent, store.KindSkipCycle, store.KindTimeout, store.KindPanic,
			store.KindUndecodable, store.KindAbandoned, store.KindInterrupted, store.KindNack, store.KindLost,
		}).Draw(t, "kind")
		o := p.Decide(run, handlers.LastError(run))
		require.False(t, o.Refund)
		if p.Exhausted(run) {
			require.True(t, o.NextCycle || o.Status == store.Failed)
		}
	})
}

func TestTheLastErrorIsTheOneOnRecord(t *testing.T) {
	t.Parallel()
	for _, kind := range []store.Kind{
		store.KindError, store.KindPermanent, store.KindSkipCycle, store.KindTimeout, store.KindPanic, store.KindUndecodable,
		store.KindAbandoned, store.KindInterrupted, store.KindNack,
	} {
		was := store.NewFailure("mail", kind, `user "ada" is gone`)
		f := handlers.Failure("mail", handlers.LastError(store.Run{ErrorKind: was.Kind, Error: was.Message}))
		require.Equal(t, *was, f)
	}
	f := handlers.Failure("mail", handlers.LastError(store.Run{Error: "of another time"}))
	require.Equal(t, store.KindAbandoned, f.Kind)
	require.Equal(t, "no attempt is left, and none that failed is on record", f.Message)
}

// TestEveryRunComesToAnEnd lives through runs by what Decide says, with
// handlers that return whatever they like, and has the store check each
// outcome.
func TestEveryRunComesToAnEnd(t *testing.T) {
	t.Parallel()
	db := testdb.Open(t, testdb.SQLite(t))
	require.NoError(t, migrations.Up(t.Context(), db, ""))
	st, err := store.New(t.Context(), db, "")
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		p := policy(t)
		var (
			run       = store.Run{Handler: "mail"}
			snoozes   = rapid.IntRange(0, 5).Draw(t, "snoozes")
			called    int // tries that count
			outcomes  []queue.Outcome
			succeeded bool
		)
		for ended := false; !ended; {
			run.Attempt, run.Tries = run.Attempt+1, run.Tries+1 // the claim
			require.False(t, p.Exhausted(run))
			require.LessOrEqual(t, run.Tries, p.Attempts)
			require.Less(t, run.Cycle, p.Cycles)
			result := anyError(t)
			if snoozes > 0 && rapid.IntRange(0, 3).Draw(t, "snooze") == 0 {
				result, snoozes = handlers.Snooze(time.Second), snoozes-1
			}
			o := p.Decide(run, result)
			o.Lease = queue.Lease{RunID: 1, Instance: "a", Attempt: run.Attempt}
			outcomes = append(outcomes, o)
			require.Equal(t, result == nil, o.Status == store.Success)
			require.GreaterOrEqual(t, o.Delay, time.Duration(0))
			if !o.Refund {
				called++
			} else {
				run.Tries--
			}
			if o.NextCycle {
				run.Cycle, run.Tries = run.Cycle+1, 0
			}
			ended, succeeded = o.Status != store.Pending, o.Status == store.Success
		}
		require.LessOrEqual(t, called, p.Attempts*p.Cycles)
		if !succeeded {
			require.NotNil(t, outcomes[len(outcomes)-1].Failure)
		}
		lost, err := queue.Of(st).End(context.Background(), outcomes)
		require.NoError(t, err, "the store takes every outcome")
		require.Len(t, lost, len(outcomes), "though nobody holds this run")
	})
}

func TestARunThatAlwaysFailsGetsEveryTryOfEveryCycle(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := policy(t)
		run, called := store.Run{}, 0
		for {
			run.Tries++
			called++
			o := p.Decide(run, errCause)
			if o.Status == store.Failed {
				break
			}
			if o.NextCycle {
				require.Equal(t, p.CycleInterval, o.Delay)
				run.Cycle, run.Tries = run.Cycle+1, 0
			} else {
				require.LessOrEqual(t, o.Delay, p.Backoff.Maximum)
			}
		}
		require.Equal(t, p.Attempts*p.Cycles, called)
	})
}

// policy draws a valid one, every field that decides set.
func policy(t *rapid.T) handlers.Policy {
	p := handlers.Policy{
		Attempts:      rapid.IntRange(1, 6).Draw(t, "attempts"),
		Cycles:        rapid.IntRange(1, 6).Draw(t, "cycles"),
		CycleInterval: duration(1).Draw(t, "cycle interval"),
		Backoff:       backoff(t),
	}
	require.NoError(t, p.Validate())
	return p
}

// anyError draws what a handler may return, or have happen to it, but no snooze.
func anyError(t *rapid.T) error {
	err := rapid.SampledFrom([]error{
		nil, errCause, errCause, errCause, errCause, context.Canceled, &handlers.PanicError{Value: "boom"},
		wmiddleware.RecoveredPanicError{V: "boom"}, handlers.ErrNacked, handlers.LastError(store.Run{}), store.ErrLeaseLost,
	}).Draw(t, "error")
	if err == nil {
		return nil
	}
	for range rapid.IntRange(0, 3).Draw(t, "wrappings") {
		switch rapid.SampledFrom([]string{"%w", "join", "late", "skip", "permanent", "undecodable", "panic"}).Draw(t, "wrapping") {
		case "%w":
			err = fmt.Errorf("send: %w", err)
		case "join":
			err = errors.Join(errors.New("close: broken"), err)
		case "late":
			err = &handlers.TimeoutError{Timeout: time.Minute, Err: err}
		case "skip":
			err = handlers.SkipCycle(err)
		case "permanent":
			err = handlers.Permanent(err)
		case "undecodable":
			err = handlers.Undecodable(err)
		case "panic":
			err = &handlers.PanicError{Value: err}
		}
	}
	return err
}
