package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// addition is a handler that was added under load, and perhaps removed.
type addition struct {
	name    string
	from    time.Time // when the first process had registered it
	until   time.Time // when its subscription was about to be removed; zero: it was not
	dropped bool      // nobody serves it any more
}

// had says whether the handler was subscribed when the event was committed.
func (a addition) had(e entry) bool {
	return !a.from.IsZero() && e.began.After(a.from) && (a.until.IsZero() || e.ended.Before(a.until))
}

func (a addition) String() string {
	if a.until.IsZero() {
		return fmt.Sprintf("registered at %v", a.from)
	}
	return fmt.Sprintf("registered at %v and removed at %v", a.from, a.until)
}

// additions are all of them.
type additions struct {
	registry string // the file in which children write what they have registered

	mu  sync.Mutex
	all []*addition
}

// next makes a new one.
func (a *additions) next() *addition {
	a.mu.Lock()
	defer a.mu.Unlock()
	fresh := &addition{name: fmt.Sprintf("added-%d", len(a.all)+1)}
	a.all = append(a.all, fresh)
	return fresh
}

// set changes one.
func (a *additions) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// read returns all, with the times of the registry.
func (a *additions) read() (all []addition, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	from := map[string]time.Time{}
	file, err := os.Open(a.registry)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		defer func() { err = errors.Join(err, file.Close()) }()
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			var name string
			var at int64
			if n, err := fmt.Sscan(lines.Text(), &name, &at); n != 2 {
				return nil, fmt.Errorf("registry %s: line %q: want a handler and a time: %w", a.registry, lines.Text(), err)
			}
			if t := time.Unix(0, at); from[name].IsZero() || t.Before(from[name]) {
				from[name] = t
			}
		}
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	for _, one := range a.all {
		one.from = from[one.name]
		all = append(all, *one)
	}
	return all, nil
}

// discard has the runs discarded that handlers have left behind which nobody serves
// any more, as an operator would.
func (a *additions) discard(ctx context.Context, t *target) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var st *store.Store
	for _, one := range a.all {
		var due int
		if !one.dropped {
			continue
		}
		if err := t.ask(ctx, `SELECT count(*) FROM reprise.handler_runs WHERE status = 'PENDING' AND due_at IS NOT NULL AND handler = '`+one.name+`'`, &due); err != nil {
			return err
		}
		if due == 0 {
			continue
		}
		if st == nil {
			var err error
			if st, err = store.New(ctx, t.db, ""); err != nil {
				return err
			}
		}
		filter := store.Filter{Handler: one.name, Status: store.Pending}
		if _, err := replay.Discard(ctx, st, filter, replay.Request{By: "soak", Reason: "the handler is removed"}); err != nil {
			return err
		}
	}
	return nil
}

// addHandler adds a handler to all processes that handle, while transactions are
// open that publish. When it is settled and some time has passed, no process serves
// it any more, and then its subscription is removed. When ctx ends before that, it
// stays.
func (s *saboteur) addHandler(ctx context.Context, serving time.Duration) error {
	st, err := s.store(ctx)
	if err != nil {
		return errTooSoon
	}
	added := s.added.next()
	s.crew.serve(added.name, true)
	if !reached(ctx, func() bool { return s.settled(ctx, added.name) }) {
		return nil
	}
	s.log.Info("added", "handler", added.name)
	pauseFor(ctx, serving)
	if ctx.Err() != nil {
		return nil
	}
	s.added.set(func() { added.dropped = true })
	s.crew.serve(added.name, false)
	if !reached(ctx, func() bool { return unserved(ctx, st, added.name) }) {
		return nil
	}
	s.added.set(func() { added.until = time.Now() })
	s.log.Info("removing", "handler", added.name)
	reached(ctx, func() bool {
		err := operate.On(st).Unsubscribe(ctx, store.Subscription{Topic: topicOrdered, Handler: added.name}, store.By{Name: "soak"})
		return err == nil || errors.Is(err, store.ErrNotFound) // the answer to another try was lost
	})
	return nil
}

// reached waits until it is there, or returns false when ctx ends first.
func reached(ctx context.Context, there func() bool) bool {
	for !there() {
		pauseFor(ctx, 200*time.Millisecond)
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// settled says whether the handler has the runs of all that transactions have
// committed which were open when it was registered, as far as the database can tell.
func (s *saboteur) settled(ctx context.Context, handler string) bool {
	var n int
	err := s.target.ask(ctx, `SELECT count(*) FROM reprise.subscriptions WHERE open_then IS NULL AND handler = '`+handler+`'`, &n)
	return err == nil && n == 1
}

// unserved says whether no process serves the handler, as far as the database can tell.
func unserved(ctx context.Context, st *store.Store, handler string) bool {
	instances, err := st.Instances(ctx)
	return err == nil && !slices.ContainsFunc(instances, func(l store.InstanceState) bool { return slices.Contains(l.Handlers, handler) })
}

// store is Reprise's, once its tables are there.
func (s *saboteur) store(ctx context.Context) (*store.Store, error) {
	return store.New(ctx, s.target.db, "")
}
