package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/store"
)

type question struct {
	name string
	ask  func(ctx context.Context) (answer string, err error)
}

// ask returns the questions: each list begins at the newest, and far back.
func ask(ctx context.Context, st *store.Store, o options) ([]question, error) {
	newest, err := st.Runs(ctx, store.Filter{Limit: 1})
	if err != nil {
		return nil, err
	}
	groups, err := st.Groups(ctx, store.Filter{})
	if err != nil || len(groups) == 0 {
		return nil, fmt.Errorf("no failure group in the history: %w", err)
	}
	payload, err := store.ParseCondition("user.id=4242")
	if err != nil {
		return nil, err
	}
	middle := newest[0].ID / 2
	day := newest[0].PublishedAt.Add(-15 * 24 * time.Hour)
	page := func(f store.Filter) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			p, err := st.Page(ctx, f)
			return fmt.Sprint(len(p.Runs)), err
		}
	}
	count := func(f store.Filter) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			n, err := st.Count(ctx, f)
			return n.String(), err
		}
	}
	grouped := func(f store.Filter) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			g, err := st.Grouping(ctx, f)
			return fmt.Sprintf("%d%s", len(g.Groups), map[bool]string{true: "+"}[g.More || g.Among > 0]), err
		}
	}
	const handler = "topic-3-handler-2"
	all := []question{}
	for _, f := range []struct {
		name   string
		filter store.Filter
	}{
		{"all", store.Filter{}},
		{"failed", store.Filter{Status: store.Failed}},
		{"failed of a handler", store.Filter{Status: store.Failed, Handler: handler}},
		{"failed of a topic", store.Filter{Status: store.Failed, Topic: "topic-3"}},
		{"a failure group", store.Filter{Status: store.Failed, Group: groups[0].Fingerprint}},
		{"failed with a text", store.Filter{Status: store.Failed, Text: "code 2"}},
		{"failed in a day of the past", store.Filter{Status: store.Failed, Since: day, Until: day.AddDate(0, 0, 1)}},
		{"failed by payload", store.Filter{Status: store.Failed, Payload: []store.Condition{payload}}},
		{"discarded", store.Filter{Status: store.Discarded}},
		{"pending", store.Filter{Status: store.Pending}},
		{"successful of a handler", store.Filter{Status: store.Success, Handler: handler}},
		{"of a handler that nobody has", store.Filter{Handler: "nobody"}},
		{"of a key", store.Filter{Key: "user-4242"}},
		{"of an event", store.Filter{EventID: newest[0].EventID}},
		{"of a replay", store.Filter{Replay: 1}},
		{"in a day of the past", store.Filter{Since: day, Until: day.AddDate(0, 0, 1)}},
	} {
		back := f.filter
		back.Before = middle
		all = append(all,
			question{"list " + f.name, page(f.filter)},
			question{"list " + f.name + ", from the middle", page(back)},
			question{"count " + f.name, count(f.filter)})
	}
	all = append(all,
		question{"groups", grouped(store.Filter{})},
		question{"groups, a thousand of them", grouped(store.Filter{Limit: store.MaxLimit})},
		question{"groups of a handler", grouped(store.Filter{Handler: handler})},
		question{"groups of a handler that nobody has", grouped(store.Filter{Handler: "nobody"})},
		question{"groups of a kind", grouped(store.Filter{Kind: store.KindError})},
		question{"groups of a kind that nothing has", grouped(store.Filter{Kind: store.KindPanic})},
		question{"groups of a topic", grouped(store.Filter{Topic: "topic-3"})},
		question{"groups with a text", grouped(store.Filter{Text: "code 2"})},
		question{"groups in a day of the past", grouped(store.Filter{Since: day, Until: day.AddDate(0, 0, 1)})},
		question{"groups by payload", grouped(store.Filter{Payload: []store.Condition{payload}})},
		question{"groups of a key", grouped(store.Filter{Key: "user-4242"})},
		question{"events", func(ctx context.Context) (string, error) {
			e, _, err := st.Events(ctx, store.EventFilter{})
			return fmt.Sprint(len(e)), err
		}},
		question{"events of a topic in a day of the past", func(ctx context.Context) (string, error) {
			e, _, err := st.Events(ctx, store.EventFilter{Topic: "topic-3", Since: day, Until: day.AddDate(0, 0, 1)})
			return fmt.Sprint(len(e)), err
		}},
		question{"subscriptions", func(ctx context.Context) (string, error) {
			s, err := st.Subscriptions(ctx)
			return fmt.Sprint(len(s)), err
		}},
		question{"operations", func(ctx context.Context) (string, error) {
			o, err := st.Operations(ctx, 0, 0)
			return fmt.Sprint(len(o)), err
		}},
	)
	return slices.DeleteFunc(all, func(q question) bool { return !strings.HasPrefix(q.name, o.only) }), nil
}
