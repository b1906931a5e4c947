package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/store"
)

func outboxShowCommand(a *app) *cobra.Command {
	var with showing
	c := &cobra.Command{
		Use:   "show ID...",
		Short: "Show messages of the outbox: event, error, operation",
		Example: `  reprise outbox show 17
  reprise outbox show 17 --payload`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids := make([]int64, len(args))
			for i, text := range args {
				var err error
				if ids[i], err = parseOutgoing(text); err != nil {
					return err
				}
			}
			return a.withStore(c.Context(), func(st *store.Store) error { return a.outboxShow(c.Context(), st, ids, with) })
		},
	}
	with.addPayload(c)
	return c
}

// shownOutgoing is everything on record about a message of the outbox.
type shownOutgoing struct {
	message   store.Outgoing
	payload   payload
	operation *store.Operation // the last operation on it; nil for none
}

func lookIntoOutbox(ctx context.Context, st *store.Store, id int64, with showing) (s shownOutgoing, err error) {
	s.message, err = st.Outgoing(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return s, nothing("message %d is not in the outbox", id)
	case err != nil:
		return s, err
	}
	if s.payload, err = with.read(s.message.Bytes, func(most int) ([]byte, error) { return st.OutgoingPayload(ctx, id, most) }); err != nil {
		return s, err
	}
	if s.message.OperationID == 0 {
		return s, nil
	}
	o, err := st.Operation(ctx, s.message.OperationID)
	s.operation = &o
	return s, err
}

func (s shownOutgoing) head() store.EventHead {
	return store.EventHead{Event: s.message.Event, Bytes: s.message.Bytes, MetadataBytes: s.message.MetadataBytes, MetadataUnread: s.message.MetadataUnread}
}

func (a *app) outboxShow(ctx context.Context, st *store.Store, ids []int64, with showing) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	all := make([]shownOutgoing, len(ids))
	data := struct {
		Messages []wire.MessageDetails `json:"messages"`
	}{}
	for i, id := range ids {
		if all[i], err = lookIntoOutbox(ctx, st, id, with); err != nil {
			return err
		}
		data.Messages = append(data.Messages, wire.NewMessageDetails(all[i].message, a.wireEvent(all[i].head(), all[i].payload), all[i].operation))
	}
	return a.print(data, func(out io.Writer) {
		for i, s := range all {
			if i > 0 {
				fmt.Fprintln(out)
			}
			a.printOutgoing(out, s, now)
		}
	})
}

func (a *app) printOutgoing(out io.Writer, s shownOutgoing, now time.Time) {
	o := s.message
	fields := newFields(out)
	fields.say("MESSAGE", fmt.Sprint(o.ID))
	fields.say("STATE", string(o.State))
	fields.say("SENT", at(o.SentAt, now))
	if o.Failures > 0 {
		fields.say("FAILURES", fmt.Sprint(o.Failures))
	}
	fields.say("LAST ERROR", o.Error)
	fields.say("TOPIC", o.Event.Topic)
	fields.say("EVENT", o.Event.ID)
	fields.event(s.head(), now)
	fields.flush()
	a.printPayload(out, s.head(), s.payload)
	if s.operation != nil {
		fmt.Fprintln(out, "\nLAST OPERATION")
		a.printOperations(out, []store.Operation{*s.operation}, now)
	}
}
