package cli

import (
	"io"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
)

// checkPlan returns an error that says why nothing would be done, or prints which named
// runs are not selected.
func (a *app) checkPlan(p replay.Plan) error {
	why := words.Few(p.NotSelected)
	switch {
	case p.Total.N == 0 && why != "":
		return nothing("nothing is selected: %s", why)
	case p.Total.N == 0:
		return nothing("nothing is selected")
	case why != "":
		a.say("Not selected: %s.", why)
	}
	return nil
}

func (a *app) printPlan(out io.Writer, p replay.Plan) {
	t := a.table("HANDLER", "TOPIC", "STATUS", "GROUP", "RUNS", "NEWEST", "KIND", "ERROR")
	for _, part := range p.Parts {
		t.add(part.Handler, part.Topic, statusCell(part.Status, ""), part.Fingerprint, words.Thousands(part.Runs), part.Newest, part.Kind, part.Error)
	}
	t.write(out)
}

// dryRun prints what would be done.
func (a *app) dryRun(p replay.Plan, would string) error {
	if err := a.print(p, func(out io.Writer) { a.printPlan(out, p) }); err != nil {
		return err
	}
	for _, o := range p.Obstacles() {
		a.say("%s", o)
	}
	a.say("%s Nothing was done.", would)
	return nil
}
