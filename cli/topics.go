package cli

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func topicsCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:     "topics",
		Short:   "See what the application says of its topics",
		Example: "  reprise topics list",
	}, topicsListCommand(a))
}

func topicsListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List topics with what carries their events",
		Long: `List the topics of which the application says something: the broker that carries
their events, or the database; how they are published; and whether operators may
publish on them. "*", the last one, is all topics that are not in the list.

An application that names topics decides on which ones operators may publish.
One that names none allows all. What it no longer says of a topic stays here, as
it was DECLARED last.`,
		Example: "  reprise topics list -o json",
		Args:    cobra.NoArgs,
		RunE: do(func(ctx context.Context) error {
			return a.withStore(ctx, func(st *store.Store) error { return a.topicsList(ctx, st) })
		}),
	}
}

func (a *app) topicsList(ctx context.Context, st *store.Store) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	topics, err := st.Topics(ctx)
	if err != nil {
		return err
	}
	slices.SortStableFunc(topics, func(a, b store.Topic) int {
		switch {
		case a.Topic == store.AllTopics:
			return 1
		case b.Topic == store.AllTopics:
			return -1
		}
		return 0
	})
	if err := a.print(wire.NewTopics(topics), func(out io.Writer) {
		if len(topics) > 0 {
			a.printTopics(out, topics, now)
		}
	}); err != nil {
		return err
	}
	if len(topics) == 0 {
		return nothing("the application says nothing of its topics: the database carries their events, and operators may publish on all of them")
	}
	return nil
}

func (a *app) printTopics(out io.Writer, topics []store.Topic, now time.Time) {
	t := a.table("TOPIC", "TRANSPORT", "MODE", "MANUAL", "DESCRIPTION", "DECLARED")
	for _, topic := range topics {
		transport, mode, manual := topic.Transport, topic.Mode, "no"
		if transport == "" {
			transport, mode = "database", ""
		}
		if replay.MayPublish(topics, topic.Topic) == nil {
			manual = "yes"
		}
		t.add(topic.Topic, transport, mode, manual, topic.Description, at(topic.DeclaredAt, now))
	}
	t.write(out)
}
