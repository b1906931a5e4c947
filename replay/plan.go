package replay

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

// Plan is what a replay or a discard would do at this moment, and what is in its way.
// Its JSON is that of "reprise runs replay --dry-run -o json".
type Plan struct {
	Total store.Count `json:"total"`      // runs of all parts, counted up to store.TotalCount
	Parts []PlanPart  `json:"parts"`      // at most 1,000, the largest first
	More  int64       `json:"more_parts"` // number of parts that are not in Parts
	Gone  int64       `json:"-"`          // runs of all parts whose event is no longer in the database

	// NotSelected names runs of the selection's IDs that are not in the plan, and says
	// why, as far as their status shows it: "run 17 is SUCCESS".
	NotSelected []string `json:"-"`

	kind store.OperationKind
}

// PlanPart is the runs of a plan that have one handler and the same kind of failure.
type PlanPart struct {
	Handler     string       `json:"handler"`
	Topic       string       `json:"topic"`
	Status      store.Status `json:"status"`     // of the newest run
	Fingerprint string       `json:"group"`      // of the failure group
	Kind        store.Kind   `json:"error_kind"` // of the newest run
	Error       string       `json:"error"`      // of the newest run
	Runs        int64        `json:"runs"`
	Newest      int64        `json:"newest"`     // id of the newest run
	Gone        int64        `json:"event_gone"` // runs whose event is no longer in the database
	Subscribed  bool         `json:"subscribed"` // whether the handler has a subscription to the topic
	Instances   int          `json:"instances"`  // how many live instances serve the handler
}

// Preview returns the plan of All, and changes nothing. It returns the same errors for a
// selection that All refuses. The plan of a selection without runs has a Total of 0.
func Preview(ctx context.Context, st *store.Store, selection store.Filter, request Request) (Plan, error) {
	return preview(ctx, st, request.operation(store.Replaying, selection))
}

// PreviewDiscard is Preview for Discard.
func PreviewDiscard(ctx context.Context, st *store.Store, selection store.Filter, request Request) (Plan, error) {
	return preview(ctx, st, request.operation(store.Discarding, selection))
}

func preview(ctx context.Context, st *store.Store, o store.Operation) (Plan, error) {
	if err := named(o.Selection); err != nil {
		return Plan{}, err
	}
	found, err := operate.On(st).Preview(ctx, o)
	if err != nil {
		return Plan{}, err
	}
	instances, err := st.Instances(ctx)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Total: found.Total, Parts: make([]PlanPart, len(found.Parts)), More: found.More, Gone: found.Gone, kind: o.Kind}
	for i, part := range found.Parts {
		p.Parts[i] = PlanPart{
			Handler: part.Handler, Topic: part.Topic, Status: part.Status, Fingerprint: part.Fingerprint, Kind: part.Kind, Error: part.Error,
			Runs: part.Runs, Newest: part.Newest, Gone: part.Gone, Subscribed: part.Subscribed,
		}
		for _, instance := range instances {
			if instance.Serves(store.Subscription{Topic: part.Topic, Handler: part.Handler}) {
				p.Parts[i].Instances++
			}
		}
	}
	p.NotSelected, err = notSelected(ctx, st, o, found.Total.N)
	return p, err
}

// notSelected says why runs that the selection names are not among the selected ones.
func notSelected(ctx context.Context, st *store.Store, o store.Operation, selected int64) (why []string, err error) {
	ids := o.Selection.IDs
	if int64(len(ids)) <= selected {
		return nil, nil
	}
	runs, err := st.Runs(ctx, store.Filter{IDs: ids, Limit: store.MaxLimit})
	if err != nil {
		return nil, err
	}
	takes := []store.Status{store.Failed}
	switch {
	case o.Selection.Status != "":
		takes = []store.Status{o.Selection.Status}
	case o.EvenSuccessful:
		takes = append(takes, store.Success)
	}
	for _, id := range ids {
		i := slices.IndexFunc(runs, func(r store.Run) bool { return r.ID == id })
		switch {
		case i < 0:
			why = append(why, fmt.Sprintf("run %d is not there", id))
		case !slices.Contains(takes, runs[i].Status):
			why = append(why, fmt.Sprintf("run %d is %s", id, runs[i].Status))
		case runs[i].Status == store.Pending && runs[i].DueAt.IsZero():
			why = append(why, fmt.Sprintf("run %d is running", id))
		}
	}
	return why, nil
}

// String returns the number of runs, and the handlers with the number of runs of each:
// "42 runs of mail (40), trial (2)".
func (p Plan) String() string {
	runs := words.Counted(p.Total, "run")
	if len(p.Parts) == 0 {
		return runs
	}
	return runs + " of " + p.byHandler(func(part PlanPart) int64 { return part.Runs })
}

// Refusal returns an error if All would refuse the plan: a handler has no subscription,
// so that no instance would claim its runs. It knows only of the handlers in Parts.
func (p Plan) Refusal() error {
	if handlers := p.unsubscribed(); handlers != "" {
		return fmt.Errorf("no handler is subscribed for %s: register it with the bus, or select others", handlers)
	}
	return nil
}

// Obstacles says, one sentence or two for each obstacle, what keeps replayed runs from
// being handled. A discard has no obstacles.
func (p Plan) Obstacles() (all []string) {
	if p.kind != store.Replaying {
		return nil
	}
	add := func(format, handlers string) {
		if handlers != "" {
			all = append(all, fmt.Sprintf(format, handlers))
		}
	}
	add("Nobody is subscribed, so that the replay will be refused: %s. Register the handler with the bus, or select others.", p.unsubscribed())
	add("No live instance serves %s: what is replayed waits until one does.", p.byHandler(func(part PlanPart) int64 {
		if !part.Subscribed || part.Instances > 0 {
			return 0
		}
		return part.Runs
	}))
	add("The event is no longer in the database, so that the run will fail again: %s.", p.gone())
	if p.More > 0 {
		all = append(all, fmt.Sprintf("%s more groups, which are smaller, are not listed: whether their handlers are subscribed and served is not looked at here. A replay that nobody is subscribed to is refused.", words.Thousands(p.More)))
	}
	return all
}

// unsubscribed returns the runs that no instance would ever claim.
func (p Plan) unsubscribed() string {
	if p.kind != store.Replaying {
		return ""
	}
	return p.byHandler(func(part PlanPart) int64 {
		if part.Subscribed {
			return 0
		}
		return part.Runs
	})
}

// gone returns the runs whose event is no longer in the database.
func (p Plan) gone() string {
	gone, listed := p.byHandler(func(part PlanPart) int64 { return part.Gone }), int64(0)
	for _, part := range p.Parts {
		listed += part.Gone
	}
	if others := p.Gone - listed; others > 0 {
		gone = strings.TrimPrefix(fmt.Sprintf("%s, and %s more", gone, words.Thousands(others)), ", and ")
	}
	return gone
}

// byHandler returns the handlers with the numbers of their runs, as runs counts them in
// a part; handlers without such runs are left out.
func (p Plan) byHandler(runs func(PlanPart) int64) string {
	var names []string
	total := map[string]int64{}
	for _, part := range p.Parts {
		n := runs(part)
		if n == 0 {
			continue
		}
		if !slices.Contains(names, part.Handler) {
			names = append(names, part.Handler)
		}
		total[part.Handler] += n
	}
	for i, name := range names {
		names[i] = fmt.Sprintf("%s (%s)", name, words.Thousands(total[name]))
	}
	return words.Few(names)
}
