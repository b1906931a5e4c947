package cli

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/health"
)

func doctorCommand(a *app) *cobra.Command {
	dueWarn, dueCritical := age{time.Minute}, age{10 * time.Minute}
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong, and say what to do",
		Long: `Look for what is wrong, and say what to do. The exit code is 0 when all is well,
4 with a warning, and 5 with something critical.

What waits in the outbox for a minute is a warning, and for 15 minutes critical
if no process sends it. What the broker has refused is a warning, too.`,
		Example: "  reprise doctor\n  reprise doctor --due-critical 1h -o json",
		Args:    cobra.NoArgs,
		RunE: do(func(ctx context.Context) error {
			return a.doctor(ctx, health.Limits{
				DueWarning: max(dueWarn.Duration, 1), DueCritical: max(dueCritical.Duration, 1), Everything: a.output == "json",
			})
		}),
	}
	c.Flags().Var(&dueWarn, "due-warn", "how long a run may be due before it is a warning")
	c.Flags().Var(&dueCritical, "due-critical", "how long before it is critical")
	return c
}

func (a *app) doctor(ctx context.Context, limits health.Limits) error {
	var findings []health.Finding
	err := a.withDatabase(ctx, toLook, func(db *sql.DB) error {
		st, err := a.openStore(ctx, db)
		if err == nil {
			findings, err = health.Examine(ctx, st, limits)
		}
		return err
	})
	var known exitError
	switch {
	case ctx.Err() != nil || errors.As(err, &known):
		return err
	case err != nil:
		findings = append(findings, health.Finding{
			Check: "database", Severity: health.Critical, Text: redact(err.Error()), Advice: "Nothing else could be looked at.",
		})
	}
	data := struct {
		Severity health.Severity  `json:"severity"`
		Checks   []health.Finding `json:"checks"`
	}{health.Worst(findings), findings}
	if err := a.print(data, func(out io.Writer) { a.printFindings(out, findings) }); err != nil {
		return err
	}
	switch data.Severity {
	case health.Critical:
		return exitError{code: exitCritical}
	case health.Warning:
		return exitError{code: exitWarning}
	}
	return nil
}

func (a *app) printFindings(out io.Writer, findings []health.Finding) {
	colours := map[health.Severity]colour{health.OK: green, health.Warning: yellow, health.Critical: red}
	t := a.table("", "CHECK", "FINDING")
	for _, f := range findings {
		t.add(cell{string(f.Severity), colours[f.Severity]}, f.Check, f.Text)
	}
	t.write(out)
	for _, f := range findings {
		if f.Advice != "" {
			fmt.Fprintf(out, "\n%s: %s\n", f.Check, f.Advice)
		}
	}
}
