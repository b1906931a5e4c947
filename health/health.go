// Package health examines a store, and says what is wrong and what to do about it. It
// serves the command line's doctor, a health endpoint or a console.
package health

import (
	"context"
	"fmt"
	"slices"
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
	Warning  Severity = "WARN" // look soon
	Critical Severity = "CRIT" // events are not handled
)

// Worse reports whether s is worse than another severity.
func (s Severity) Worse(than Severity) bool {
	rising := []Severity{OK, Warning, Critical}
	return slices.Index(rising, s) > slices.Index(rising, than)
}

// Finding is a result of one check. Its JSON is that of "reprise doctor -o json".
type Finding struct {
	Check    string   `json:"check"` // name of the check: clock, instances, handlers, due, …
	Severity Severity `json:"severity"`
	Text     string   `json:"finding"`
	Advice   string   `json:"advice"` // what to do; "" when there is nothing to do
}

// Worst returns the worst severity of the findings; OK if there are none.
func Worst(findings []Finding) Severity {
	worst := OK
	for _, f := range findings {
		if f.Severity.Worse(worst) {
			worst = f.Severity
		}
	}
	return worst
}

// Limits say when a finding is a Warning or Critical. A zero field means its default.
type Limits struct {
	DueWarning  time.Duration // a run that is due for longer is a Warning; default 1 minute
	DueCritical time.Duration // a run that is due for longer is Critical; default 10 minutes

	// Everything names everything that is found, not only the first few, and does not
	// cut error texts.
	Everything bool
}

// Examine runs all checks, one after the other, and returns their findings: at least
// one for each check. It only reads, and looks at a bounded number of rows whatever the
// size of history. With an error, it returns the findings of the earlier checks.
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

// Further thresholds of a Warning.
const (
	maxSkew     = 5 * time.Second
	deadPercent = 20      // of a table's rows; both thresholds of dead rows must be exceeded
	deadRows    = 100_000 // rows
	takingUp    = time.Minute

	// How long the oldest message waits in the outbox. unsentCritical applies only if
	// no process sends.
	unsentWarn     = time.Minute
	unsentCritical = 15 * time.Minute
)

// examination is the state of one Examine.
type examination struct {
	st       *store.Store
	limits   Limits
	now      time.Time // by the database's clock
	findings []Finding
}

// named lists names: all of them with Everything, else the first few.
func (e *examination) named(things []string) string {
	if e.limits.Everything {
		return strings.Join(things, ", ")
	}
	return words.Few(things)
}

// brief returns an error's text, cut to 200 characters of one line unless Everything is
// set.
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
