package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/store"
)

func outboxListCommand(a *app) *cobra.Command {
	var s outboxSelection
	var before int64
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List messages of the outbox, the newest first",
		Long: `List messages of the outbox, the newest first: what is neither SENT nor DROPPED,
unless --state, --event or --all says otherwise.`,
		Example: `  reprise outbox list
  reprise outbox list --state REFUSED --topic shipping.registered
  reprise outbox list --state SENT --since 2h --until 1h -o json`,
		Args: cobra.NoArgs,
		RunE: do(func(ctx context.Context) error {
			f, err := s.of(nil)
			if err != nil {
				return err
			}
			if limit < 1 || before < 0 {
				return usage(fmt.Errorf("--limit %d --before %d: want a limit of at least 1, and the number of a message", limit, before))
			}
			f.Unsent = f.State == "" && f.EventID == "" && !s.all
			f.Before = before
			return a.withStore(ctx, func(st *store.Store) error { return a.outboxList(ctx, st, f, limit) })
		}),
	}
	s.add(c, "in whatever state")
	s.addState(c, "PENDING, HELD, SENT, REFUSED or DROPPED", store.OutgoingStates()...)
	c.Flags().Int64Var(&before, "before", 0, "messages older than this one: the next page")
	c.Flags().IntVar(&limit, "limit", 50, "how many")
	return c
}

func (a *app) outboxList(ctx context.Context, st *store.Store, f store.OutboxFilter, limit int) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	messages, next, err := collectOutbox(ctx, st, f, limit)
	if err != nil {
		return err
	}
	if err := a.print(wire.NewMessages(messages, next), func(out io.Writer) {
		if len(messages) > 0 {
			a.printOutbox(out, messages, now)
		}
	}); err != nil {
		return err
	}
	switch {
	case len(messages) == 0 && f.Unsent:
		return nothing("no message is selected that is neither SENT nor DROPPED: for those, say --state or --all")
	case len(messages) == 0:
		return nothing("no message is selected")
	case next != 0:
		a.say("More: the same with --before %d", next)
	}
	return nil
}

// collectOutbox reads page after page until it has enough messages. It also returns the
// --before of the next page.
func collectOutbox(ctx context.Context, st *store.Store, f store.OutboxFilter, limit int) (messages []store.Outgoing, next int64, err error) {
	for {
		f.Limit = min(limit-len(messages), store.MaxLimit)
		page, err := st.Outbox(ctx, f)
		if err != nil {
			return nil, 0, err
		}
		messages = append(messages, page...)
		if len(page) < f.Limit {
			return messages, 0, nil
		}
		if f.Before = page[len(page)-1].ID; len(messages) == limit {
			return messages, f.Before, nil
		}
	}
}

func (a *app) printOutbox(out io.Writer, messages []store.Outgoing, now time.Time) {
	t := a.table("ID", "STATE", "TOPIC", "KEY", "EVENT", "WRITTEN", "FAILURES", "ERROR")
	for _, o := range messages {
		t.add(o.ID, outgoingCell(o.State), o.Event.Topic, o.Event.Key, o.Event.ID, at(o.Event.PublishedAt, now), o.Failures, o.Error)
	}
	t.write(out)
}
