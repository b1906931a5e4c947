package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

func actionsCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "actions",
		Short: "Who paused, cancelled, undid, removed or pruned what",
		Long: `What was done to operations, to subscriptions and to old events: who, when, why,
and what it came to.`,
		Example: "  reprise actions list",
	}, actionsListCommand(a))
}

func actionsListCommand(a *app) *cobra.Command {
	return a.newestFirst("actions", "List actions, the newest first", "  reprise actions list --limit 10", a.actionsList)
}

func (a *app) actionsList(ctx context.Context, st *store.Store, before int64, limit int) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	actions, err := st.Actions(ctx, before, limit)
	if err != nil {
		return err
	}
	next := int64(0)
	if len(actions) == limit && actions[limit-1].ID > 1 {
		next = actions[limit-1].ID
	}
	if err := a.print(wire.NewActions(actions, next), func(out io.Writer) {
		if len(actions) > 0 {
			a.printActions(out, actions, now)
		}
	}); err != nil {
		return err
	}
	if len(actions) == 0 {
		return nothing("no action is on record")
	}
	if next != 0 {
		a.say("More: the same with --before %d", next)
	}
	return nil
}

func (a *app) printActions(out io.Writer, actions []store.Action, now time.Time) {
	t := a.table("ID", "ACTION", "ON", "RUNS", "EVENTS", "OUTBOX", "BY", "AT", "REASON")
	for _, action := range actions {
		t.add(action.ID, action.Kind, actedOn(action), words.Thousands(action.Runs), someOf(action.Events), someOf(action.Outgoing), action.By.Name, at(action.At, now), action.By.Reason)
	}
	t.write(out)
}

// someOf prints a number that most actions do not have.
func someOf(n int64) string {
	if n == 0 {
		return ""
	}
	return words.Thousands(n)
}

// actedOn returns what an action was about, in the syntax of the command line.
func actedOn(action store.Action) string {
	switch action.Kind {
	case store.Removing:
		return fmt.Sprintf("%s --topic %s", words.Quoted(action.Handler), words.Quoted(action.Topic))
	case store.Pruning:
		words := []string{"before " + action.Before.Local().Format(time.DateTime)}
		if action.Failed {
			words = append(words, "--failed")
		}
		if action.Discarded {
			words = append(words, "--discarded")
		}
		return strings.Join(words, " ")
	}
	return fmt.Sprintf("operation %d", action.Operation)
}
