package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

// plan is what a replay or a discard would do, and what is in its way.
type plan struct {
	Total countJSON  `json:"total"`
	Parts []planPart `json:"parts"`      // the largest parts
	More  int64      `json:"more_parts"` // parts that are not listed

	gone int64 // runs of all parts whose event is gone
}

type planPart struct {
	Handler    string       `json:"handler"`
	Topic      string       `json:"topic"`
	Status     store.Status `json:"status"`
	Group      string       `json:"group"`
	Kind       store.Kind   `json:"error_kind"`
	Error      string       `json:"error"`
	Runs       int64        `json:"runs"`
	Newest     int64        `json:"newest"`
	Gone       int64        `json:"event_gone"`
	Subscribed bool         `json:"subscribed"`
	Instances  int          `json:"instances"`
}

// newPlan adds to a preview the instances that serve the handlers.
func newPlan(ctx context.Context, st *store.Store, preview store.Preview) (plan, error) {
	p := plan{Total: newCountJSON(preview.Total), Parts: []planPart{}, More: preview.More, gone: preview.Gone}
	instances, err := st.Instances(ctx)
	if err != nil {
		return p, err
	}
	for _, part := range preview.Parts {
		serving := 0
		for _, i := range instances {
			if i.Serves(store.Subscription{Topic: part.Topic, Handler: part.Handler}) {
				serving++
			}
		}
		p.Parts = append(p.Parts, planPart{
			Handler: part.Handler, Topic: part.Topic, Status: part.Status, Group: part.Fingerprint, Kind: part.Kind, Error: part.Error,
			Runs: part.Runs, Newest: part.Newest, Gone: part.Gone, Subscribed: part.Subscribed, Instances: serving,
		})
	}
	return p, nil
}

// count returns the number of runs, in words.
func (p plan) count() string {
	if p.Total.More {
		return words.Thousands(p.Total.Count) + "+ runs"
	}
	return words.Several(p.Total.Count, "run")
}

// byHandler counts the runs of the picked parts by handler, in words.
func (p plan) byHandler(pick func(planPart) int64) string {
	var names []string
	runs := map[string]int64{}
	for _, part := range p.Parts {
		n := pick(part)
		if n == 0 {
			continue
		}
		if !slices.Contains(names, part.Handler) {
			names = append(names, part.Handler)
		}
		runs[part.Handler] += n
	}
	for i, name := range names {
		names[i] = fmt.Sprintf("%s (%s)", name, words.Thousands(runs[name]))
	}
	return words.Few(names)
}

// unsubscribed returns the runs that no process would ever claim.
func (p plan) unsubscribed() string {
	return p.byHandler(func(part planPart) int64 {
		if part.Subscribed {
			return 0
		}
		return part.Runs
	})
}

// obstacles returns what keeps replayed runs from being handled.
func (p plan) obstacles() (all []string) {
	add := func(format, handlers string) {
		if handlers != "" {
			all = append(all, fmt.Sprintf(format, handlers))
		}
	}
	add("Nobody is subscribed, so that the replay will be refused: %s. Register the handler with the bus, or select others.", p.unsubscribed())
	add("No live instance serves %s: what is replayed waits until one does.", p.byHandler(func(part planPart) int64 {
		if !part.Subscribed || part.Instances > 0 {
			return 0
		}
		return part.Runs
	}))
	gone, listed := p.byHandler(func(part planPart) int64 { return part.Gone }), int64(0)
	for _, part := range p.Parts {
		listed += part.Gone
	}
	if others := p.gone - listed; others > 0 {
		gone = strings.TrimPrefix(fmt.Sprintf("%s, and %s more", gone, words.Thousands(others)), ", and ")
	}
	add("The event is no longer in the database, so that the run will fail again: %s.", gone)
	if p.More > 0 {
		all = append(all, fmt.Sprintf("%s more groups, which are smaller, are not listed: whether their handlers are subscribed and served is not looked at here. A replay that nobody is subscribed to is refused.", words.Thousands(p.More)))
	}
	return all
}

func (a *app) printPlan(out io.Writer, p plan) {
	t := a.table("HANDLER", "TOPIC", "STATUS", "GROUP", "RUNS", "NEWEST", "KIND", "ERROR")
	for _, part := range p.Parts {
		t.add(part.Handler, part.Topic, statusCell(part.Status, ""), part.Group, words.Thousands(part.Runs), part.Newest, part.Kind, part.Error)
	}
	t.write(out)
}

// notSelected explains, for each run that was named but not selected, why, as far as
// its status shows.
func notSelected(ctx context.Context, st *store.Store, ids []int64, selected int64) ([]string, error) {
	if int64(len(ids)) <= selected {
		return nil, nil
	}
	runs, err := st.Runs(ctx, store.Filter{IDs: ids, Limit: store.MaxLimit})
	if err != nil {
		return nil, err
	}
	var why []string
	for _, id := range ids {
		i := slices.IndexFunc(runs, func(r store.Run) bool { return r.ID == id })
		switch {
		case i < 0:
			why = append(why, fmt.Sprintf("run %d is not there", id))
		case runs[i].Status != store.Failed:
			why = append(why, fmt.Sprintf("run %d is %s", id, runs[i].Status))
		}
	}
	return why, nil
}

// dryRun prints what would be done.
func (a *app) dryRun(p plan, would string, obstacles []string) error {
	if err := a.print(p, func(out io.Writer) { a.printPlan(out, p) }); err != nil {
		return err
	}
	for _, o := range obstacles {
		a.say("%s", o)
	}
	a.say("%s Nothing was done.", would)
	return nil
}
