package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func outboxSendCommand(a *app) *cobra.Command {
	var s outboxSelection
	c := a.outboxChange(&s, store.Sending, &cobra.Command{
		Use:   "send [ID...]",
		Short: "Send again what was refused, or what was sent",
		Long: `Send again what the broker has REFUSED, when that is put right. With --state
SENT, what was sent already, such as when the broker has lost its disk: those
who have handled it know it by its id. With DROPPED or HELD, that.

It is made PENDING. A running application with the transport configured sends it
within seconds. What was never in the outbox, being sent directly, is not there
to be sent again.`,
		Example: `  reprise outbox send --topic shipping.registered --reason 'the limit is raised'
  reprise outbox send --state SENT --topic shipping.registered --since 14:05 --until 14:20 --dry-run
  reprise outbox send 17 --state DROPPED --reason 'it was needed after all'`,
	})
	s.addState(c, "REFUSED (the default), SENT, DROPPED or HELD", store.OutgoingRefused, store.OutgoingSent, store.OutgoingDropped, store.OutgoingHeld)
	return c
}

func outboxReleaseCommand(a *app) *cobra.Command {
	return a.outboxChange(&outboxSelection{}, store.Releasing, &cobra.Command{
		Use:   "release [ID...]",
		Short: "Send what is held",
		Long: `Send what is HELD. It is made PENDING: a running application with the transport
configured sends it within seconds.`,
		Example: `  reprise outbox release --topic shipping.registered --dry-run
  reprise outbox release 17 18 --reason 'checked with the warehouse'`,
	})
}

func outboxDropCommand(a *app) *cobra.Command {
	var s outboxSelection
	c := a.outboxChange(&s, store.Dropping, &cobra.Command{
		Use:   "drop [ID...]",
		Short: "Decide that something is not sent",
		Long: `Decide that what is PENDING, HELD or REFUSED is not sent. It stays on record as
DROPPED, and can be sent all the same: reprise outbox send --state DROPPED.

What the relay has in its hands at that moment may be sent all the same, and is
SENT then.`,
		Example: `  reprise outbox drop --topic shipping.registered --until 1d --reason 'delivered by phone' --dry-run
  reprise outbox drop 17 --reason 'test order'`,
	})
	s.addState(c, "PENDING, HELD or REFUSED; default: any of these", store.OutgoingPending, store.OutgoingHeld, store.OutgoingRefused)
	return c
}

// outboxChange makes a command that changes the selected messages of the outbox.
func (a *app) outboxChange(s *outboxSelection, kind store.OperationKind, c *cobra.Command) *cobra.Command {
	var r request
	c.RunE = func(c *cobra.Command, args []string) error {
		f, err := s.named(args)
		if err != nil {
			return err
		}
		if kind == store.Dropping && r.reason == "" && !r.dryRun {
			return usage(errors.New("--reason is missing: whoever looks for these messages will want to know why they are not sent"))
		}
		if err := usage(replay.ValidateOutbox(kind, f)); err != nil {
			return err
		}
		return a.toWrite(c.Context(), r.dryRun, func(st *store.Store) error { return a.changeOutbox(c.Context(), st, kind, f, r) })
	}
	s.add(c, "all that the command is for")
	r.add(c)
	r.addDryRun(c)
	return c
}

// outboxWords returns the question before a change of so many messages, and the text of
// a dry run.
func outboxWords(kind store.OperationKind, messages int64) (question, would string) {
	n := words.Several(messages, "message")
	switch kind {
	case store.Sending:
		return "Send " + n + " again", "sent again"
	case store.Releasing:
		return "Release " + n, "released"
	}
	return "Drop " + n, "dropped"
}

func (a *app) changeOutbox(ctx context.Context, st *store.Store, kind store.OperationKind, f store.OutboxFilter, r request) error {
	p, err := replay.PreviewOutbox(ctx, st, kind, f)
	if err != nil {
		return err
	}
	why := words.Few(p.NotSelected)
	switch {
	case p.Total == 0 && why != "":
		return nothing("nothing is selected: %s", why)
	case p.Total == 0:
		return nothing("nothing is selected: see reprise outbox list %s", outboxFlagsOf(f))
	case why != "":
		a.say("Not selected: %s.", why)
	}
	question, would := outboxWords(kind, p.Total)
	if r.dryRun {
		return a.dryRunOutbox(ctx, st, p, would)
	}
	if err := a.confirm(ctx, r.yes, fmt.Sprintf("%s of %s?", question, words.ByTopic(p.Parts))); err != nil {
		return err
	}
	o, err := replay.ChangeOutbox(ctx, st, kind, f, r.request(nil))
	if err != nil {
		return err
	}
	if err := a.conclude(ctx, st, o.ID, false); err != nil || o.Kind == store.Dropping {
		return err
	}
	return a.sayWhoSends(ctx, st)
}

func (a *app) dryRunOutbox(ctx context.Context, st *store.Store, p replay.OutboxPlan, would string) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	if err := a.print(wire.NewOutboxPlan(p.Total, p.Parts), func(out io.Writer) { a.printOutboxCounts(out, p.Parts, now) }); err != nil {
		return err
	}
	a.say("%s would be %s. Nothing was done.", words.Several(p.Total, "message"), would)
	return nil
}

// sayWhoSends says what will happen to PENDING messages.
func (a *app) sayWhoSends(ctx context.Context, st *store.Store) error {
	relay, err := st.RelayedBy(ctx)
	if err != nil {
		return err
	}
	if relay == "" {
		a.say("Nobody sends at this moment: a running application with the transport configured does.")
		return nil
	}
	a.say("%s sends, within seconds if the broker takes it: see reprise outbox status.", relay)
	return nil
}
