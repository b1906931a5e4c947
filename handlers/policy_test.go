package handlers_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

// century is longer than anybody waits.
const century = 100 * 365 * 24 * time.Hour

func TestTheZeroPolicyIsWhatItsFieldsDocument(t *testing.T) {
	t.Parallel()
	require.NoError(t, handlers.Policy{}.Validate())
	require.JSONEq(t, `{
		"attempts": 5, "cycles": 3, "cycle_interval": "1h0m0s",
		"backoff_initial": "1s", "backoff_factor": 4, "backoff_maximum": "10m0s", "backoff_jitter": 0.2,
		"timeout": "1m0s", "max_snoozes": 10000
	}`, handlers.Policy{}.Describe())
	require.Equal(t, time.Minute, handlers.Policy{}.AttemptTimeout())
}

func TestFiveAttemptsOfTheDefaultPolicyTakeLessThanTwoMinutes(t *testing.T) {
	t.Parallel()
	for range 100 { // of one jitter each
		var all time.Duration
		for try := 1; try < 5; try++ {
			o := handlers.Policy{}.Decide(store.Run{Tries: try}, errors.New("down"))
			require.Equal(t, store.Pending, o.Status)
			all += o.Delay
		}
		require.Less(t, all, 2*time.Minute)
	}
}

func TestDescribeSaysWhatHolds(t *testing.T) {
	t.Parallel()
	nothing := func(context.Context, store.Run, error) error { return nil }
	p := handlers.Policy{
		Attempts: 7, Cycles: 1, CycleInterval: 90 * time.Second,
		Backoff: handlers.Backoff{Initial: time.Millisecond, Factor: 1.5, Maximum: time.Second, Jitter: -1},
		Timeout: -1, Concurrency: 3, Priority: -2, Transactional: true, Isolation: sql.LevelSerializable, MaxSnoozes: -1, OnFailure: nothing, OnExhausted: nothing,
	}
	require.JSONEq(t, `{
		"attempts": 7, "cycles": 1, "cycle_interval": "1m30s",
		"backoff_initial": "1ms", "backoff_factor": 1.5, "backoff_maximum": "1s", "backoff_jitter": 0,
		"timeout": "never", "max_snoozes": 0, "concurrency": 3, "priority": -2, "transactional": true, "isolation": "serializable"
	}`, p.Describe())
	require.Zero(t, p.AttemptTimeout())
	require.Equal(t, time.Hour, handlers.Policy{Timeout: time.Hour}.AttemptTimeout())
}

func TestValidateNamesTheBadField(t *testing.T) {
	t.Parallel()
	type backoff = handlers.Backoff
	for _, c := range []struct {
		bad  handlers.Policy
		want string
	}{
		{handlers.Policy{Attempts: -1}, "field Attempts -1: want 1 to 1000000000"},
		{handlers.Policy{Isolation: sql.LevelSerializable}, "field Isolation Serializable: it is that of the handler's transaction: set Transactional, too"},
		{handlers.Policy{Isolation: sql.LevelSnapshot, Transactional: true}, "field Isolation Snapshot: want sql.LevelReadCommitted, LevelRepeatableRead or LevelSerializable, or nothing for the database's default"},
		{handlers.Policy{Attempts: 1_000_000_001}, "field Attempts 1000000001: want 1 to 1000000000"},
		{handlers.Policy{Attempts: math.MinInt}, "field Attempts -"},
		{handlers.Policy{Cycles: -1}, "field Cycles -1: want 1 to 1000000000"},
		{handlers.Policy{Cycles: math.MaxInt}, "field Cycles 9"},
		{handlers.Policy{CycleInterval: -1}, "field CycleInterval -1ns: want a positive duration"},
		{handlers.Policy{Concurrency: -1}, "field Concurrency -1: want at least 1, or 0 for the bus's"},
		{handlers.Policy{Backoff: backoff{Initial: -1}}, "field Backoff.Initial -1ns: want at least 1 ms"},
		{handlers.Policy{Backoff: backoff{Factor: 0.99}}, "field Backoff.Factor 0.99: want 1 to 1000"},
		{handlers.Policy{Backoff: backoff{Factor: -4}}, "field Backoff.Factor -4: want 1 to 1000"},
		{handlers.Policy{Backoff: backoff{Factor: 1000.5}}, "field Backoff.Factor 1000.5: want 1 to 1000"},
		{handlers.Policy{Backoff: backoff{Factor: math.NaN()}}, "field Backoff.Factor NaN: want 1 to 1000"},
		{handlers.Policy{Backoff: backoff{Factor: math.Inf(1)}}, "field Backoff.Factor +Inf: want 1 to 1000"},
		{handlers.Policy{Backoff: backoff{Factor: math.Inf(-1)}}, "field Backoff.Factor -Inf: want 1 to 1000"},
		{handlers.Policy{Backoff: backoff{Maximum: -1}}, "field Backoff.Maximum -1ns: want at least Backoff.Initial, 1s"},
		{handlers.Policy{Backoff: backoff{Initial: time.Hour, Maximum: time.Minute}}, "field Backoff.Maximum 1m0s: want at least Backoff.Initial, 1h0m0s"},
		{handlers.Policy{Backoff: backoff{Jitter: 1}}, "field Backoff.Jitter 1: want less than 1"},
		{handlers.Policy{Backoff: backoff{Jitter: math.NaN()}}, "field Backoff.Jitter NaN: want less than 1"},
		{handlers.Policy{Backoff: backoff{Jitter: math.Inf(1)}}, "field Backoff.Jitter +Inf: want less than 1"},
	} {
		err := c.bad.Validate()
		require.ErrorContains(t, err, c.want)
		require.NotContains(t, err.Error(), "\n", "nothing else is wrong")
	}
}

func TestValidateNamesEveryBadFieldAtOnce(t *testing.T) {
	t.Parallel()
	err := handlers.Policy{
		Attempts: -1, Cycles: -1, CycleInterval: -1, Concurrency: -1,
		Backoff: handlers.Backoff{Initial: -1, Factor: -1, Maximum: -2, Jitter: 2},
	}.Validate()
	for _, field := range []string{
		"Attempts", "Cycles", "CycleInterval", "Backoff.Initial", "Backoff.Factor", "Backoff.Maximum", "Backoff.Jitter", "Concurrency",
	} {
		require.ErrorContains(t, err, "field "+field+" ")
	}
}

func TestValidateTakesWhatHasAMeaning(t *testing.T) {
	t.Parallel()
	for _, good := range []handlers.Policy{
		{Attempts: 1, Cycles: 1},
		{Attempts: 1_000_000_000, Cycles: 1_000_000_000, CycleInterval: century},
		{Timeout: math.MinInt64, Priority: math.MinInt},
		{Timeout: math.MaxInt64, Priority: math.MaxInt, Concurrency: math.MaxInt},
		{Backoff: handlers.Backoff{Initial: time.Millisecond, Factor: 1, Maximum: time.Millisecond, Jitter: -1}},
		{Backoff: handlers.Backoff{Initial: century, Factor: 1000, Maximum: century, Jitter: 0.999}},
		{Backoff: handlers.Backoff{Jitter: math.Inf(-1), Factor: math.Copysign(0, -1)}},
	} {
		require.NoError(t, good.Validate())
		require.True(t, json.Valid([]byte(good.Describe())), good.Describe())
	}
}

func TestAHandlerHasOnePolicyAtMost(t *testing.T) {
	t.Parallel()
	handle := func(context.Context, byValue) error { return nil }
	none := handlers.New("none", handle)
	require.NoError(t, handlers.Validate(none))
	require.Equal(t, handlers.Policy{}, none.Policy())

	one := handlers.New("one", handle, handlers.Policy{Attempts: 9})
	require.NoError(t, handlers.Validate(one))
	require.Equal(t, handlers.Policy{Attempts: 9}, one.Policy())

	two := handlers.New("two", handle, handlers.Policy{}, handlers.Policy{})
	require.EqualError(t, handlers.Validate(two), `handler "two" has 2 policies: want at most one`)
	bad := handlers.New("bad", handle, handlers.Policy{Attempts: -1})
	require.EqualError(t, handlers.Validate(bad), `handler "bad": policy: field Attempts -1: want 1 to 1000000000`)
}

func TestAHandlerThatCouldNeverRunIsRefused(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, handlers.Validate(nil), "the handler is nil")
	require.ErrorContains(t, handlers.Validate((*handlers.Handler)(nil)), "the handler is nil")
	require.ErrorContains(t, handlers.Validate(handlers.New("", func(context.Context, byValue) error { return nil })),
		"a handler of *handlers_test.byValue has no name")
	require.EqualError(t, handlers.Validate(handlers.New[byValue]("idle", nil)), `handler "idle" has no function`)
}

func TestAnyHandlerMayBringAPolicy(t *testing.T) {
	t.Parallel()
	require.Equal(t, handlers.Policy{}, handlers.PolicyOf(foreign{}))
	require.Equal(t, handlers.Policy{Cycles: -3}, handlers.PolicyOf(foreignWithPolicy{}))
	require.NoError(t, handlers.Validate(foreign{}))
	require.ErrorContains(t, handlers.Validate(foreignWithPolicy{}), `handler "foreign": policy: field Cycles -3`)
}

type foreign struct{}

func (foreign) HandlerName() string               { return "foreign" }
func (foreign) NewEvent() any                     { return new(byValue) }
func (foreign) Handle(context.Context, any) error { return nil }

type foreignWithPolicy struct{ foreign }

func (foreignWithPolicy) Policy() handlers.Policy { return handlers.Policy{Cycles: -3} }

// waitAfter is how long a run waits after the given try, as long as tries are left.
func waitAfter(b handlers.Backoff, try int) time.Duration {
	return handlers.Policy{Attempts: 1_000_000_000, Backoff: b}.Decide(store.Run{Tries: try}, errors.New("down")).Delay
}

func TestTheBackoffGrowsUpToItsMaximum(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		backoff handlers.Backoff
		want    []time.Duration // after the first try, the second …
	}{
		{
			handlers.Backoff{Jitter: -1},
			[]time.Duration{time.Second, 4 * time.Second, 16 * time.Second, 64 * time.Second, 256 * time.Second, 10 * time.Minute, 10 * time.Minute},
		},
		{
			handlers.Backoff{Initial: 10 * time.Millisecond, Factor: 1.5, Maximum: 22 * time.Millisecond, Jitter: -1},
			[]time.Duration{10 * time.Millisecond, 15 * time.Millisecond, 22 * time.Millisecond, 22 * time.Millisecond},
		},
		{
			handlers.Backoff{Initial: time.Minute, Factor: 1, Jitter: -1},
			[]time.Duration{time.Minute, time.Minute, time.Minute},
		},
		{
			handlers.Backoff{Initial: time.Minute, Factor: 1000, Maximum: time.Minute, Jitter: math.Inf(-1)},
			[]time.Duration{time.Minute, time.Minute},
		},
	} {
		for i, want := range c.want {
			require.Equal(t, want, waitAfter(c.backoff, i+1), "%+v after try %d", c.backoff, i+1)
		}
	}
}

func TestJitterSpreadsTheWaitByItsPartAndNoFurther(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := backoff(t)
		jitter := b.Jitter
		even := b
		even.Jitter = -1
		try := rapid.IntRange(1, 40).Draw(t, "try")
		want, got := waitAfter(even, try), waitAfter(b, try)
		spread := time.Duration(max(jitter, 0)*float64(want)) + time.Duration(float64(want)*1e-12) + 2 // float64 is not exact
		require.GreaterOrEqual(t, got, want-spread)
		require.LessOrEqual(t, got, min(want+spread, b.Maximum))
		require.LessOrEqual(t, want, b.Maximum)
		require.GreaterOrEqual(t, got, time.Duration(0))
	})
}

func TestRunsThatFailTogetherAreTriedAgainApart(t *testing.T) {
	t.Parallel()
	earlier, later := 0, 0
	for range 1000 {
		switch wait := waitAfter(handlers.Backoff{}, 1); {
		case wait < 900*time.Millisecond:
			earlier++
		case wait > 1100*time.Millisecond:
			later++
		}
	}
	require.Greater(t, earlier, 100) // a quarter, in the long run
	require.Greater(t, later, 100)
}

func TestTheWaitAfterAnyTryIsWithinBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := backoff(t)
		wait := waitAfter(b, rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 999_999_999)).Draw(t, "try"))
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.LessOrEqual(t, wait, b.Maximum)
	})
}

// backoff draws a valid one, every field set.
func backoff(t *rapid.T) handlers.Backoff {
	b := handlers.Backoff{
		Initial: duration(time.Millisecond).Draw(t, "initial"),
		Factor:  rapid.Float64Range(1, 1000).Draw(t, "factor"),
		Jitter:  rapid.OneOf(rapid.Float64Range(0.001, 0.999), rapid.Just(-1.0)).Draw(t, "jitter"),
	}
	b.Maximum = duration(b.Initial).Draw(t, "maximum")
	require.NoError(t, handlers.Policy{Backoff: b}.Validate())
	return b
}

// duration draws one of any magnitude.
func duration(least time.Duration) *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.OneOf(
		rapid.Int64Range(0, int64(time.Millisecond)),
		rapid.Int64Range(0, int64(time.Hour)),
		rapid.Int64Range(0, int64(century)),
	), func(n int64) time.Duration { return min(least+time.Duration(n), century) })
}
