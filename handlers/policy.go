package handlers

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/reprise-bus/reprise/store"
)

// Policy sets how a handler's runs are executed and retried. A zero field means its
// default. The defaults suit a handler that sends an e-mail: 3 cycles, one hour apart,
// each of 5 attempts within two minutes.
//
// Between attempts a run waits in the database. After the last attempt of the last cycle
// it is FAILED, and stays FAILED until somebody replays or discards it.
type Policy struct {
	Attempts      int           // per cycle; default 5
	Cycles        int           // default 3
	CycleInterval time.Duration // from the end of one cycle to the start of the next; default 1 h
	Backoff       Backoff       // between the attempts of a cycle

	// Timeout is the time after which an attempt's context ends. Default 1 min; negative:
	// never. The handler's result counts even if it returns later: a nil error is a
	// success. A handler that ignores its context keeps its slot.
	Timeout time.Duration

	// MaxSnoozes is how many attempts of a run may end without costing a try, as by
	// Snooze. Default 10,000; negative: no limit. The next Snooze makes the run FAILED,
	// of kind "snooze". The count is Run.Attempt minus Run.Tries; it includes attempts of
	// earlier cycles and interrupted attempts. A replay allows up to MaxSnoozes more.
	MaxSnoozes int

	// Concurrency is how many runs of the handler a process works on at once. A group
	// shares it among all its types of events. Default: the bus's Concurrency.
	Concurrency int

	// Priority decides which handler gets a free slot when the bus's MaxConcurrency
	// allows fewer runs than are due: the handler with the highest Priority. Default 0;
	// negative values are allowed.
	//
	// After Publish or InTx has returned, no run of a lower priority begins in this
	// process before the run of the new event, with one exception: a handler without a
	// running run may always begin one. Runs that become due in another way (a retry, a
	// replay, an event published by another process or in a caller's transaction) are
	// found by the next claim. Runs of a lower priority that a current claim has leased
	// may begin before them, one for each slot that was free when that claim began.
	Priority int

	// From is which earlier events a new handler gets. Default: none, only events
	// published after its registration.
	From From

	// Transactional gives the handler a transaction on the bus's database, which Tx
	// returns. The transaction commits together with the run's SUCCESS, or not at all:
	// what the handler writes through it is committed exactly once. Isolation decides how
	// it behaves beside other transactions. On SQLite one transactional handler runs at a
	// time, and nothing else is written meanwhile.
	Transactional bool

	// Isolation is the isolation level of a transactional handler's transaction:
	// sql.LevelReadCommitted, LevelRepeatableRead or LevelSerializable. Default: the
	// database's, on PostgreSQL READ COMMITTED unless configured otherwise. At READ
	// COMMITTED, a handler that reads a row, computes and writes the row back loses
	// writes of other transactions in between. Lock an existing row with SELECT … FOR
	// UPDATE, or use a higher level. On SQLite every transaction is serializable,
	// whatever Isolation says. When the database refuses a transaction because of
	// concurrent ones, the handler is called again at once, in the same attempt.
	Isolation sql.IsolationLevel

	// OnFailure is called after each failed cycle, including the last. OnExhausted is
	// called when the run is about to become FAILED. Both get the handler's error and the
	// run as it was in that attempt, but with the status and the last error that will be
	// written. Each has the timeout of an attempt and keeps the handler's slot. A call is
	// repeated only if the process dies before the end is written. An error of a callback
	// is recorded as an attempt of kind "callback" and changes nothing else.
	OnFailure   Callback
	OnExhausted Callback
}

// From says where a new handler begins.
type From string

// Beginning means all events of the handler's topic that are still in the database,
// oldest first. They come by a backfill, which is recorded as an operation and continues
// while the handler runs. It may miss an event whose publishing transaction is open when
// the handler is registered; a later backfill finds that event.
const Beginning From = "beginning"

// Callback is called for a run whose cycle has failed. It may be called concurrently.
type Callback func(ctx context.Context, run store.Run, cause error) error

// Backoff is the wait between two attempts of a cycle. The first wait is Initial; each
// later wait is the previous one times Factor, at most Maximum. Each wait is randomised
// by the fraction Jitter in both directions.
type Backoff struct {
	Initial time.Duration // default 1 s
	Factor  float64       // default 4
	Maximum time.Duration // default 10 min, or Initial if that is more
	Jitter  float64       // fraction of the wait, below 1; default 0.2, negative: none
}

// AttemptTimeout returns Timeout or its default, and 0 for no timeout.
func (p Policy) AttemptTimeout() time.Duration { return max(p.withDefaults().Timeout, 0) }

// Limits returns Attempts and Cycles or their defaults.
func (p Policy) Limits() (attempts, cycles int) {
	p = p.withDefaults()
	return p.Attempts, p.Cycles
}

// Upper limits: above any sensible setting, and below the limits of the columns.
const (
	maxTries = 1_000_000_000
	century  = 100 * 365 * 24 * time.Hour
)

// withDefaults returns the policy with every zero field filled in, except Concurrency,
// whose default is the bus's.
func (p Policy) withDefaults() Policy {
	def(&p.Attempts, 5)
	def(&p.Cycles, 3)
	def(&p.CycleInterval, time.Hour)
	def(&p.Timeout, time.Minute)
	def(&p.MaxSnoozes, 10_000)
	def(&p.Backoff.Initial, time.Second)
	def(&p.Backoff.Factor, 4)
	def(&p.Backoff.Maximum, max(10*time.Minute, p.Backoff.Initial))
	def(&p.Backoff.Jitter, 0.2)
	return p
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports every invalid field.
func (p Policy) Validate() error {
	p = p.withDefaults()
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(p.Attempts < 1 || p.Attempts > maxTries, "field Attempts %d: want 1 to %d", p.Attempts, maxTries)
	bad(p.Cycles < 1 || p.Cycles > maxTries, "field Cycles %d: want 1 to %d", p.Cycles, maxTries)
	bad(p.CycleInterval < 0 || p.CycleInterval > century, "field CycleInterval %v: want a positive duration, of at most a hundred years", p.CycleInterval)
	bad(p.Backoff.Initial < time.Millisecond, "field Backoff.Initial %v: want at least 1 ms", p.Backoff.Initial)
	bad(!(p.Backoff.Factor >= 1 && p.Backoff.Factor <= 1000), "field Backoff.Factor %v: want 1 to 1000", p.Backoff.Factor)
	bad(p.Backoff.Maximum < p.Backoff.Initial || p.Backoff.Maximum > century, "field Backoff.Maximum %v: want at least Backoff.Initial, %v, and at most a hundred years", p.Backoff.Maximum, p.Backoff.Initial)
	bad(!(p.Backoff.Jitter < 1), "field Backoff.Jitter %v: want less than 1, or a negative number for none", p.Backoff.Jitter)
	bad(p.From != "" && p.From != Beginning, "field From %q: want handlers.Beginning, or nothing for what is published from now on", p.From)
	bad(p.Isolation != sql.LevelDefault && !p.Transactional, "field Isolation %v: it is that of the handler's transaction: set Transactional, too", p.Isolation)
	bad(!slices.Contains([]sql.IsolationLevel{sql.LevelDefault, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable}, p.Isolation),
		"field Isolation %v: want sql.LevelReadCommitted, LevelRepeatableRead or LevelSerializable, or nothing for the database's default", p.Isolation)
	bad(p.Concurrency < 0, "field Concurrency %d: want at least 1, or 0 for the bus's", p.Concurrency)
	return errors.Join(errs...)
}

// wait returns the backoff after the given try of a cycle. The first try is 1.
func (b Backoff) wait(try int) time.Duration {
	wait := backoff.ExponentialBackOff{
		InitialInterval:     b.Initial,
		RandomizationFactor: max(b.Jitter, 0),
		Multiplier:          b.Factor,
		MaxInterval:         b.Maximum,
	}
	wait.Reset()
	next := wait.NextBackOff()
	for range min(max(try, 1), 10_000) - 1 { // after 10,000 steps the wait is the maximum, or nearly constant
		next = wait.NextBackOff()
	}
	return min(next, b.Maximum)
}

// describedPolicy is a policy as the table of subscriptions shows it.
type describedPolicy struct {
	Attempts      int     `json:"attempts"`
	Cycles        int     `json:"cycles"`
	CycleInterval string  `json:"cycle_interval"`
	Initial       string  `json:"backoff_initial"`
	Factor        float64 `json:"backoff_factor"`
	Maximum       string  `json:"backoff_maximum"`
	Jitter        float64 `json:"backoff_jitter"`
	Timeout       string  `json:"timeout"`
	MaxSnoozes    int     `json:"max_snoozes"`
	Concurrency   int     `json:"concurrency,omitempty"`
	Priority      int     `json:"priority,omitempty"`
	Transactional bool    `json:"transactional,omitempty"`
	Isolation     string  `json:"isolation,omitempty"`
	From          From    `json:"from,omitempty"`
}

// Describe returns a valid policy as JSON for readers of the tables, with defaults filled
// in and without callbacks.
func (p Policy) Describe() string {
	p = p.withDefaults()
	timeout := p.Timeout.String()
	if p.Timeout < 0 {
		timeout = "never"
	}
	isolation := ""
	if p.Isolation != sql.LevelDefault {
		isolation = strings.ToLower(p.Isolation.String())
	}
	described, _ := json.Marshal(describedPolicy{ // numbers and strings always marshal
		Attempts: p.Attempts, Cycles: p.Cycles, CycleInterval: p.CycleInterval.String(),
		Initial: p.Backoff.Initial.String(), Factor: p.Backoff.Factor,
		Maximum: p.Backoff.Maximum.String(), Jitter: max(p.Backoff.Jitter, 0),
		Timeout: timeout, MaxSnoozes: max(p.MaxSnoozes, 0), Concurrency: p.Concurrency, Priority: p.Priority, Transactional: p.Transactional, Isolation: isolation, From: p.From,
	})
	return string(described)
}
