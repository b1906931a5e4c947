// Package health examines what stands in a store, and says what is wrong and what to
// do about it: for the command line's doctor, a health endpoint, or a console.
package health

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// Severity is how bad a finding is.
type Severity string

// The severities of a finding.
const (
	OK       Severity = "OK"
	Warning  Severity = "WARN" // somebody should look soon
	Critical Severity = "CRIT" // events are not handled
)

// Worse says whether a severity is worse than another.
func (s Severity) Worse(than Severity) bool { return rank[s] > rank[than] }

var rank = map[Severity]int{OK: 0, Warning: 1, Critical: 2}

// Finding is what one check has found.
type Finding struct {
	Check    string // name of the check: clock, instances, handlers, due, …
	Severity Severity
	Text     string
	Advice   string // what to do; "" when there is nothing to do
}

// Worst returns the worst severity of the findings, OK without any.
func Worst(findings []Finding) Severity {
	worst := OK
	for _, f := range findings {
		if f.Severity.Worse(worst) {
			worst = f.Severity
		}
	}
	return worst
}

// Limits say what is wrong. A zero field means its default.
type Limits struct {
	DueWarning  time.Duration // a run that is due for longer is a Warning; default 1 minute
	DueCritical time.Duration // for longer than this it is Critical; default 10 minutes

	// Everything names everything that is found, not only the first few, and cuts no
	// error's text.
	Everything bool
}

// Examine looks at the store, one check after the other, and returns the findings: at
// least one for each check. It only reads, and looks at a bounded number of rows
// whatever the size of history. With an error, the findings are those of the checks
// before.
func Examine(ctx context.Context, st *store.Store, limits Limits) ([]Finding, error) {
	e := &examination{st: st, limits: limits}
	if e.limits.DueWarning == 0 {
		e.limits.DueWarning = time.Minute
	}
	if e.limits.DueCritical == 0 {
		e.limits.DueCritical = 10 * time.Minute
	}
	for _, check := range []func(context.Context) error{
		e.database, e.clock, e.instances, e.subscriptions, e.unheard, e.failures, e.groups, e.outbox, e.operations, e.rows, e.sequences, e.columns, e.tables,
	} {
		if err := check(ctx); err != nil {
			return e.findings, err
		}
	}
	return e.findings, nil
}

// What is a Warning beside Limits.
const (
	maxSkew     = 5 * time.Second
	deadPercent = 20      // of a table's rows
	deadRows    = 100_000 // and that many
	takingUp    = time.Minute

	// What waits in the outbox for longer; the latter if nobody sends.
	unsentWarn     = time.Minute
	unsentCritical = 15 * time.Minute
)

// examination is a look at a store, and what was found so far.
type examination struct {
	st       *store.Store
	limits   Limits
	now      time.Time // by the database
	findings []Finding
}

// named are the things that something was found of.
func (e *examination) named(things []string) string {
	if e.limits.Everything {
		return strings.Join(things, ", ")
	}
	return words.Few(things)
}

// brief is an error's text, as much of it as fits a line.
func (e *examination) brief(text string) string {
	if e.limits.Everything {
		return text
	}
	return words.Cut(words.Line(text), 200)
}

func (e *examination) found(check string, severity Severity, text, advice string) {
	e.findings = append(e.findings, Finding{check, severity, text, advice})
}

func (e *examination) database(ctx context.Context) error {
	_, version, err := migrations.Versions(ctx, e.st.DB().DB, e.st.Schema())
	if err != nil {
		return err
	}
	e.found("database", OK, fmt.Sprintf("it answers; schema %q is at version %d", e.st.Schema(), version), "")
	return nil
}
