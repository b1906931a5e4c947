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

// Policy says what becomes of a handler's runs, above all of those that fail.
// A zero field means its default; the defaults suit a handler that sends an
// e-mail: five attempts within two minutes, the same after an hour, and once
// more after another.
//
// A failed run waits in the database for its next attempt. When no attempt is
// left in any cycle it is FAILED, and stays so until somebody replays it.
type Policy struct {
	Attempts      int           // in a cycle; default 5
	Cycles        int           // default 3
	CycleInterval time.Duration // from the end of one cycle to the next; default 1 h
	Backoff       Backoff       // between the attempts of a cycle

	// Timeout is when an attempt's context ends: default 1 min, negative for
	// never. What the handler returns counts, whenever it does: one that does
	// not heed its context keeps its slot.
	Timeout time.Duration

	// MaxSnoozes is how many attempts of a run may end without costing a try, which
	// is what a Snooze does: default 10,000, negative for no limit. The Snooze after
	// that makes the run FAILED, of kind "snooze". The count is Run.Attempt minus
	// Run.Tries: attempts of earlier cycles and interrupted ones are in it. A run
	// that was replayed gets up to as many again.
	MaxSnoozes int

	// Concurrency is how many runs a process works on at once, of a group those of
	// all its types of events together; default the bus's.
	Concurrency int

	// Priority decides which handler gets a slot of the process when
	// MaxConcurrency of the bus allows fewer runs than are due: the one with the
	// highest priority. Default 0; it may be negative.
	//
	// When Publish or InTx has returned, no run of a lower priority begins in
	// this process before the run of the new event, with one exception: a handler
	// that has no run may always begin one. Runs that become due in another way
	// (a retry, a replay, an event that another process or a caller's transaction
	// has published) are seen by the next claim: the runs of a lower priority that
	// a claim under way has leased may begin first, one for each slot that was
	// free when that claim began.
	Priority int

	// From is which events a handler gets that the database does not know yet:
	// by default those that are published from its registration on.
	From From

	// Transactional gives the handler a transaction on the bus's database, Tx,
	// which commits together with the run's SUCCESS, or not at all: what the
	// handler writes through it is committed exactly once. Whether it is right beside
	// what other transactions write is up to its Isolation. On SQLite one such
	// handler runs at a time, and nothing else is written meanwhile.
	Transactional bool

	// Isolation is the isolation level of a transactional handler's transaction:
	// sql.LevelReadCommitted, LevelRepeatableRead or LevelSerializable; default the
	// database's, which on PostgreSQL is READ COMMITTED unless somebody has set
	// another. At READ COMMITTED, a handler that reads a row, computes and writes it
	// back loses what others write in between: lock the row with SELECT … FOR UPDATE,
	// if it is there already, or take a higher level. On SQLite every transaction is
	// serializable, whatever this says. A transaction that the database refuses for
	// others at the same time is tried again at once, and costs no attempt.
	Isolation sql.IsolationLevel

	// OnFailure is called after each cycle that failed, the last one included;
	// OnExhausted when the run is about to become FAILED. Either is given the
	// handler's error and the run as it was in that attempt, but with its status
	// and its last error as they will be; it gets as long as an attempt, and
	// holds the handler's slot. It is called once, and again only when the
	// process dies before the end is written. If it fails itself, that is kept
	// as an attempt of kind "callback", and changes nothing else.
	OnFailure   Callback
	OnExhausted Callback
}

// From is where a new handler begins.
type From string

// Beginning is all events of the handler's topic that are still in the
// database, the oldest first: a backfill, which is on record as one, goes on
// while the handler runs. An event whose publishing transaction is still open
// when the handler is registered may be missed; a later backfill finds it.
const Beginning From = "beginning"

// Callback is told of a run that failed. It may be called concurrently.
type Callback func(ctx context.Context, run store.Run, cause error) error

// Backoff is the wait between two attempts: Initial, then Factor times the last
// one up to Maximum, each spread at random by the part Jitter to either side.
type Backoff struct {
	Initial time.Duration // default 1 s
	Factor  float64       // default 4
	Maximum time.Duration // default 10 min, or Initial if that is more
	Jitter  float64       // of the wait, below 1; default 0.2, negative for none
}

// AttemptTimeout returns Timeout with its default, and 0 for never.
func (p Policy) AttemptTimeout() time.Duration { return max(p.withDefaults().Timeout, 0) }

// Limits returns Attempts and Cycles with their defaults.
func (p Policy) Limits() (attempts, cycles int) {
	p = p.withDefaults()
	return p.Attempts, p.Cycles
}

// What is more than anybody means, and less than the columns hold.
const (
	maxTries = 1_000_000_000
	century  = 100 * 365 * 24 * time.Hour
)

// withDefaults returns the policy with every zero field filled in, but
// Concurrency, whose default is not its own.
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

// Validate reports every field that has no meaning.
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

// wait returns the backoff after the given try of a cycle, the first being 1.
func (b Backoff) wait(try int) time.Duration {
	wait := backoff.ExponentialBackOff{
		InitialInterval:     b.Initial,
		RandomizationFactor: max(b.Jitter, 0),
		Multiplier:          b.Factor,
		MaxInterval:         b.Maximum,
	}
	wait.Reset()
	next := wait.NextBackOff()
	for range min(max(try, 1), 10_000) - 1 { // it is the maximum by then, or nearly constant
		next = wait.NextBackOff()
	}
	return min(next, b.Maximum)
}

// describedPolicy is a policy as the subscription keeps it for its readers.
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

// Describe returns a valid policy as JSON for those who read the tables, with
// its defaults filled in and without its callbacks.
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
	described, _ := json.Marshal(describedPolicy{ // numbers and strings: it always marshals
		Attempts: p.Attempts, Cycles: p.Cycles, CycleInterval: p.CycleInterval.String(),
		Initial: p.Backoff.Initial.String(), Factor: p.Backoff.Factor,
		Maximum: p.Backoff.Maximum.String(), Jitter: max(p.Backoff.Jitter, 0),
		Timeout: timeout, MaxSnoozes: max(p.MaxSnoozes, 0), Concurrency: p.Concurrency, Priority: p.Priority, Transactional: p.Transactional, Isolation: isolation, From: p.From,
	})
	return string(described)
}
