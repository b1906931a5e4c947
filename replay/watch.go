package replay

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// watchBack is how far before the last look a look goes: the rows of a transaction may
// become visible only after its end.
const watchBack = time.Minute

// Watch finds runs as they come to be selected, such as runs that fail. It is not safe
// for concurrent use.
type Watch struct {
	st        *store.Store
	selection store.Filter
	began     time.Time
	looked    time.Time           // when Look was last called
	seen      map[int64]time.Time // when each run that was found last changed
	partial   bool
}

// NewWatch returns a watch for runs that come to be selected from now on.
func NewWatch(ctx context.Context, st *store.Store, selection store.Filter) (*Watch, error) {
	began, err := st.Clock(ctx)
	if err != nil {
		return nil, err
	}
	w := &Watch{st: st, selection: selection, began: began, looked: began, seen: map[int64]time.Time{}}
	_, _, err = w.Look(ctx) // runs that are selected already are seen
	return w, err
}

// Look returns the runs that have come to be selected since the last Look, in the order
// of their ids, and the database's time.
func (w *Watch) Look(ctx context.Context) (found []store.Run, now time.Time, err error) {
	if now, err = w.st.Clock(ctx); err != nil {
		return nil, now, err
	}
	f := w.selection
	f.Changed = w.looked.Add(-watchBack)
	if f.Changed.Before(w.began) {
		f.Changed = w.began
	}
	runs, all, err := newest(ctx, w.st, f)
	if err != nil {
		return nil, now, err
	}
	w.looked, w.partial = now, w.partial || !all
	maps.DeleteFunc(w.seen, func(_ int64, changed time.Time) bool { return changed.Before(f.Changed) })
	for _, r := range slices.Backward(runs) {
		if changed := r.ChangedAt(); !changed.Before(w.began) && !w.seen[r.ID].Equal(changed) {
			w.seen[r.ID] = changed
			found = append(found, r)
		}
	}
	return found, now, nil
}

// Partial reports whether so many runs were selected that a Look has seen only the
// newest of them.
func (w *Watch) Partial() bool { return w.partial }

// newest returns the selected runs among as many of the newest runs as one statement
// looks at, and whether these were all.
func newest(ctx context.Context, st *store.Store, f store.Filter) (runs []store.Run, all bool, err error) {
	f.Limit = store.MaxLimit
	for {
		page, err := st.Page(ctx, f)
		if err != nil {
			return nil, false, err
		}
		runs = append(runs, page.Runs...)
		if len(page.Runs) < f.Limit {
			return runs, page.Next == 0, nil
		}
		f.Before = page.Next
	}
}
