package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func handlersCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:     "handlers",
		Short:   "See which handlers get runs, and who serves them",
		Example: "  reprise handlers list",
	}, handlersListCommand(a), handlersRemoveCommand(a))
}

func handlersListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List handlers with what waits for them",
		Long: `List handlers with their topics, how many live instances serve them, how many
runs are due, since when the first of those is, and their policies.`,
		Example: "  reprise handlers list -o json",
		Args:    cobra.NoArgs,
		RunE: do(func(ctx context.Context) error {
			return a.withStore(ctx, func(st *store.Store) error { return a.handlersList(ctx, st) })
		}),
	}
}

func handlersRemoveCommand(a *app) *cobra.Command {
	var topic string
	var r request
	c := &cobra.Command{
		Use:   "remove HANDLER",
		Short: "End the subscription of a handler that the application no longer has",
		Long: `End the subscription of a handler that the application no longer has: events
that are published from then on make no runs for it, unless a process registers
it again. Its runs stay; what waits of them can be discarded.`,
		Example: `  reprise handlers remove old-crm
  reprise runs discard --handler old-crm --status PENDING --reason 'the CRM is gone'`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.toWrite(c.Context(), false, func(st *store.Store) error { return a.handlersRemove(c.Context(), st, args[0], topic, r) })
		},
	}
	c.Flags().StringVar(&topic, "topic", "", "topic, for a handler that has several")
	r.add(c)
	return c
}

func (a *app) handlersRemove(ctx context.Context, st *store.Store, handler, topic string, r request) error {
	subscribed, err := st.Subscriptions(ctx)
	if err != nil {
		return err
	}
	subscribed = slices.DeleteFunc(subscribed, func(s store.Subscribed) bool {
		return s.Handler != handler || topic != "" && s.Topic != topic
	})
	switch {
	case len(subscribed) == 0:
		return nothing("handler %q has no such subscription: see reprise handlers list", handler)
	case len(subscribed) > 1:
		return usage(fmt.Errorf("handler %q is subscribed to %d topics: say which with --topic", handler, len(subscribed)))
	}
	s := subscribed[0]
	if s.Instances > 0 {
		return fmt.Errorf("handler %q on topic %q is served by %s: stop them first, or they go on", handler, s.Topic, words.Several(int64(s.Instances), "instance"))
	}
	if err := a.confirm(ctx, r.yes, fmt.Sprintf("End the subscription of %s to %s, of whose runs %s are due?", handler, s.Topic, s.Due)); err != nil {
		return err
	}
	if err := replay.Unsubscribe(ctx, st, s.Subscription, r.request(nil)); err != nil {
		return err
	}
	a.say("%s gets no more runs of %s.", handler, s.Topic)
	return nil
}

func (a *app) handlersList(ctx context.Context, st *store.Store) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	subscribed, err := st.Subscriptions(ctx)
	if err != nil {
		return err
	}
	if err := a.print(wire.NewHandlers(subscribed), func(out io.Writer) {
		if len(subscribed) == 0 {
			return
		}
		t := a.table("HANDLER", "TOPIC", "INSTANCES", "DUE", "DUE SINCE", "LAST SEEN", "POLICY")
		for _, s := range subscribed {
			oldest := ""
			if !s.OldestDue.IsZero() {
				oldest = words.Ago(now.Sub(s.OldestDue))
			}
			t.add(s.Handler, s.Topic, s.Instances, s.Due, oldest, at(s.LastSeenAt, now), policyText(s.Policy))
		}
		t.write(out)
	}); err != nil {
		return err
	}
	if len(subscribed) == 0 {
		return nothing("no handler is subscribed: the application registers them when it starts")
	}
	return nil
}

// policyText returns a policy in one line.
func policyText(policy json.RawMessage) string {
	var p struct {
		Attempts      int    `json:"attempts"`
		Cycles        int    `json:"cycles"`
		CycleInterval string `json:"cycle_interval"`
		Timeout       string `json:"timeout"`
		Concurrency   int    `json:"concurrency"`
		Priority      int    `json:"priority"`
		Transactional bool   `json:"transactional"`
	}
	if err := json.Unmarshal(policy, &p); err != nil || p.Attempts == 0 {
		return ""
	}
	words := []string{fmt.Sprintf("%d × %d attempts", p.Cycles, p.Attempts), "cycles " + shortDuration(p.CycleInterval) + " apart", "timeout " + shortDuration(p.Timeout)}
	if p.Concurrency > 0 {
		words = append(words, fmt.Sprintf("%d at once", p.Concurrency))
	}
	if p.Priority != 0 {
		words = append(words, fmt.Sprintf("priority %d", p.Priority))
	}
	if p.Transactional {
		words = append(words, "transactional")
	}
	return strings.Join(words, ", ")
}

// shortDuration returns a duration without zero units: 1h instead of 1h0m0s.
func shortDuration(text string) string {
	d, err := time.ParseDuration(text)
	if err != nil {
		return text
	}
	text = d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
