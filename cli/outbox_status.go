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

func outboxStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Count what is not sent, and say who sends",
		Long: `Count what is neither sent nor dropped, by topic and state, and name the relay:
the one process of the application that sends. It is a command of its own, since
outbox list is about single messages, a page at a time, and this about all.

OLDEST is since when the first of them waits: since it was written, or since
somebody released it or had it sent again.`,
		Example: "  reprise outbox status\n  reprise outbox status -o json",
		Args:    cobra.NoArgs,
		RunE: do(func(ctx context.Context) error {
			return a.withStore(ctx, func(st *store.Store) error { return a.outboxStatus(ctx, st) })
		}),
	}
}

func (a *app) outboxStatus(ctx context.Context, st *store.Store) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	relay, err := st.RelayedBy(ctx)
	if err != nil {
		return err
	}
	counts, err := st.OutboxCounts(ctx)
	if err != nil {
		return err
	}
	return a.print(wire.NewOutboxStatus(relay, counts), func(out io.Writer) {
		if relay == "" {
			relay = "nobody"
		}
		fmt.Fprintf(out, "RELAY  %s\n\n", words.Line(relay))
		if len(counts) == 0 {
			fmt.Fprintln(out, "Nothing waits, is held or was refused.")
			return
		}
		a.printOutboxCounts(out, counts, now)
	})
}

func (a *app) printOutboxCounts(out io.Writer, counts []store.OutboxCount, now time.Time) {
	t := a.table("TOPIC", "STATE", "MESSAGES", "OLDEST", "ERROR")
	for _, c := range counts {
		t.add(c.Topic, outgoingCell(c.State), words.Thousands(c.N), at(c.Oldest, now), c.Error)
	}
	t.write(out)
}
