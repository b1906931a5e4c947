package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

func eventsCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:     "events",
		Short:   "See what was published",
		Example: "  reprise events list --topic user.signed_up --since 1d",
	}, eventsListCommand(a), eventsShowCommand(a))
}

func eventsListCommand(a *app) *cobra.Command {
	var f store.EventFilter
	var since, until when
	var before markFlag
	limit := 50
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List events, the newest first",
		Example: "  reprise events list --topic user.signed_up --key ada@example.com",
		Args:    cobra.NoArgs,
		RunE: do(func(ctx context.Context) error {
			f.Since, f.Until, f.Before = since.Time, until.Time, before.mark
			if err := f.Validate(); err != nil {
				return usage(err)
			}
			if limit < 1 {
				return usage(fmt.Errorf("--limit %d: want at least 1", limit))
			}
			return a.withStore(ctx, func(st *store.Store) error { return a.eventsList(ctx, st, f, limit) })
		}),
	}
	flags := c.Flags()
	flags.StringVar(&f.Topic, "topic", "", "topic")
	flags.StringVar(&f.Key, "key", "", "key")
	flags.Var(&since, "since", "published at or after: "+whenUsage)
	flags.Var(&until, "until", "published before")
	flags.Var(&before, "before", "where the next page begins, as the last one said")
	flags.IntVar(&limit, "limit", limit, "how many")
	return c
}

func (a *app) eventsList(ctx context.Context, st *store.Store, f store.EventFilter, limit int) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	f.Metadata = a.output == "json"
	var events []store.EventHead
	for {
		f.Limit = min(limit-len(events), store.MaxLimit)
		var page []store.EventHead
		if page, f.Before, err = st.Events(ctx, f); err != nil {
			return err
		}
		if events = append(events, page...); f.Before == nil || len(events) == limit {
			break
		}
	}
	if err := a.print(wire.NewEvents(events, f.Before), func(out io.Writer) {
		if len(events) == 0 {
			return
		}
		t := a.table("EVENT", "TOPIC", "KEY", "SOURCE", "PUBLISHED", "BYTES")
		for _, e := range events {
			t.add(e.ID, e.Topic, e.Key, e.Source, at(e.PublishedAt, now), e.Bytes)
		}
		t.write(out)
	}); err != nil {
		return err
	}
	if len(events) == 0 {
		return nothing("no event is selected")
	}
	if f.Before != nil {
		a.say("More: the same with --before %s", words.Quoted(wire.Mark(f.Before)))
	}
	return nil
}

// markFlag is where a page of events begins.
type markFlag struct{ mark *store.EventMark }

func (m *markFlag) Set(text string) (err error) {
	m.mark, err = wire.ParseMark(text)
	return err
}

func (m *markFlag) String() string { return wire.Mark(m.mark) }
func (m *markFlag) Type() string   { return "TIME/TOPIC/ID" }

func eventsShowCommand(a *app) *cobra.Command {
	var with showing
	var topic string
	c := &cobra.Command{
		Use:     "show EVENT",
		Short:   "Show an event with its runs",
		Example: "  reprise events show 0197c2a4-8f5e-7cc3-98d4-6a1c5b2e9f01 --payload",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withStore(c.Context(), func(st *store.Store) error { return a.eventsShow(c.Context(), st, topic, args[0], with) })
		},
	}
	with.addPayload(c)
	c.Flags().StringVar(&topic, "topic", "", "topic, for an id that is on several")
	return c
}

func (a *app) eventsShow(ctx context.Context, st *store.Store, topic, id string, with showing) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	events, err := st.EventHeads(ctx, id)
	if err != nil {
		return err
	}
	data := struct {
		Events []wire.EventDetails `json:"events"`
	}{}
	people, text := page()
	for _, e := range events {
		if topic != "" && topic != e.Topic {
			continue
		}
		runs, err := st.EventRuns(ctx, e.Topic, e.ID)
		if err != nil {
			return err
		}
		p, err := with.read(e.Bytes, func(most int) ([]byte, error) { return st.EventPayload(ctx, e.Topic, e.ID, most) })
		if err != nil {
			return err
		}
		if len(data.Events) > 0 {
			fmt.Fprintln(people)
		}
		data.Events = append(data.Events, wire.NewEventDetails(a.wireEvent(e, p), runs, now))
		a.printEvent(people, e, p, runs, now)
	}
	if len(data.Events) == 0 {
		return nothing("event %q is not there%s", id, map[bool]string{true: " on topic " + topic}[topic != ""])
	}
	return a.print(data, func(out io.Writer) { draw(out, text.String()) })
}

func (a *app) printEvent(out io.Writer, e store.EventHead, p payload, runs []store.Run, now time.Time) {
	fields := newFields(out)
	fields.say("EVENT", e.ID)
	fields.say("TOPIC", e.Topic)
	fields.event(e, now)
	fields.flush()
	a.printPayload(out, e, p)
	if len(runs) > 0 {
		fmt.Fprintln(out, "\nRUNS")
		a.printRuns(out, runs, now)
	}
}
