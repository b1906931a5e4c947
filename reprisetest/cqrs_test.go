package reprisetest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/reprisetest"
	"github.com/reprise-bus/reprise/store"
)

// commander is what an application may call of a bus beside application.
type commander interface {
	application
	HandleCommands(hs ...cqrs.CommandHandler) error
	HandleGroup(name string, policy handlers.Policy, members ...cqrs.GroupEventHandler) error
	Send(ctx context.Context, command any) error
	SendTx(ctx context.Context, tx pubsub.Tx, command any) error
}

var _, _ commander = (*bus.Bus)(nil), (*reprisetest.Bus)(nil)

type charge struct{ Order string }

func (charge) EventName() string { return "charge" }

func TestSendReturnsWhenTheCommandsHandlerHasRun(t *testing.T) {
	t.Parallel()
	b := reprisetest.NewBus(t)
	require.NoError(t, b.Send(t.Context(), charge{"early"}), "nobody handles it yet")
	handler := cqrs.NewCommandHandler("charge-card", func(ctx context.Context, c *charge) error {
		return b.Publish(ctx, placed{c.Order})
	})
	require.NoError(t, b.HandleCommands(handler))
	require.NoError(t, b.Send(t.Context(), charge{"1"}))
	require.NoError(t, b.SendTx(t.Context(), fakeTx{}, &charge{"2"}))
	require.Equal(t, []charge{{"early"}, {"1"}, {"2"}}, reprisetest.Sent[charge](b))
	require.Equal(t, []*charge{{"early"}, {"1"}, {"2"}}, reprisetest.Sent[*charge](b))
	require.Equal(t, []placed{{"1"}, {"2"}}, reprisetest.Published[placed](b))
	require.Empty(t, reprisetest.Published[charge](b), "it was sent")
	require.Empty(t, reprisetest.Sent[placed](b), "it was published")
	require.ErrorContains(t, b.SendTx(t.Context(), nil, charge{}), "the transaction is nil")
	require.Equal(t, store.Success, reprisetest.Run(t, handlers.OfCommand(handler), charge{"3"}).Status)
}

func TestRequireSentReturnsTheOnlyOne(t *testing.T) {
	t.Parallel()
	b := reprisetest.NewBus(t)
	require.NoError(t, b.Publish(t.Context(), placed{"1"}))
	require.Contains(t, failures(t, func(t testing.TB) { reprisetest.RequireSent[charge](t, b) }), `0 commands "charge" were sent, want one; sent was nothing`)
	require.NoError(t, b.Send(t.Context(), charge{"1"}))
	require.Equal(t, charge{"1"}, reprisetest.RequireSent[charge](t, b))
	require.Contains(t, failures(t, func(t testing.TB) { reprisetest.RequirePublished[charge](t, b) }), `0 events "charge" were published, want one; published was 1 "order.placed"`)
	require.NoError(t, b.Send(t.Context(), charge{"2"}))
	require.Contains(t, failures(t, func(t testing.TB) { reprisetest.RequireSent[charge](t, b) }), `2 commands "charge" were sent, want one; sent was 2 "charge"`)
}

// A command is sent when its transaction is committed, and never after a rollback.
func TestACommandIsSentWithItsTransaction(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		handled := 0
		b := reprisetest.NewBus(t).With(reprisetest.WithDB(testdb.Open(t, url)))
		require.NoError(t, b.HandleCommands(handlers.New("charge-card", func(context.Context, charge) error { handled++; return nil })))
		undone := errors.New("undone")
		send := func(result error) error {
			return b.InTx(t.Context(), func(tx *bus.Tx) error {
				require.NoError(t, b.SendTx(t.Context(), tx, charge{"1"}))
				require.Zero(t, handled)
				return result
			})
		}
		require.ErrorIs(t, send(undone), undone)
		require.Empty(t, reprisetest.Sent[charge](b))
		require.NoError(t, send(nil))
		require.Equal(t, charge{"1"}, reprisetest.RequireSent[charge](t, b))
		require.Equal(t, 1, handled)
	})
}

// The members of a group have one name and one policy, and what the bus refuses of
// commands and groups is refused here, too.
func TestAGroupAndItsRuns(t *testing.T) {
	t.Parallel()
	b := reprisetest.NewBus(t)
	var got []string
	require.NoError(t, b.HandleGroup("ledger", handlers.Policy{Attempts: 1, Cycles: 1},
		cqrs.NewGroupEventHandler(func(_ context.Context, e *placed) error { got = append(got, "placed "+e.ID); return nil }),
		cqrs.NewGroupEventHandler(func(_ context.Context, e *TrialGranted) error { return errors.New("no") })))
	require.NoError(t, b.HandleCommands(nothing[charge]("charge-card")))
	require.NoError(t, b.Publish(t.Context(), placed{"1"}, TrialGranted{"2"}))
	require.Equal(t, []string{"placed 1"}, got)
	require.Len(t, reprisetest.RequireFailed(t, b, "ledger").Attempts, 1)

	require.ErrorContains(t, b.HandleGroup("ledger", handlers.Policy{}, nothing[UserSignedUp]("")), `two handlers are named "ledger"`)
	require.ErrorContains(t, b.HandleGroup("g", handlers.Policy{}), "has no handlers")
	require.ErrorContains(t, b.HandleGroup("g", handlers.Policy{Attempts: -1}, nothing[UserSignedUp]("")), "field Attempts")
	require.ErrorContains(t, b.HandleCommands(nothing[charge]("again")), `command "charge" has the handler "charge-card"`)
	require.ErrorContains(t, b.Handle(nothing[charge]("audit")), `command "charge" has the handler "charge-card"`)
	require.ErrorContains(t, b.HandleCommands(nothing[placed]("place")), `command "order.placed" has the handler "ledger"`)
}

// The hooks and the metadata of a context are those of the bus.
func TestHooksAndMetadata(t *testing.T) {
	t.Parallel()
	refused := errors.New("an order without an id")
	var got []message.Metadata
	note := func(ctx context.Context) error {
		m := cqrs.OriginalMessageFromCtx(ctx).Metadata
		got = append(got, message.Metadata{"tenant": m.Get("tenant"), "hook": m.Get("hook")})
		return nil
	}
	b := reprisetest.NewBus(t).With(
		reprisetest.WithOnPublish(func(p cqrs.OnEventSendParams) error {
			p.Message.Metadata.Set("hook", "published "+p.EventName)
			if p.Event.(placed).ID == "" {
				return refused
			}
			return nil
		}),
		reprisetest.WithOnSend(func(p cqrs.CommandBusOnSendParams) error {
			p.Message.Metadata.Set("hook", "sent "+p.CommandName)
			return nil
		}),
	)
	require.NoError(t, b.Handle(handlers.New("ship", func(ctx context.Context, _ placed) error { return note(ctx) })))
	require.NoError(t, b.HandleCommands(handlers.New("charge-card", func(ctx context.Context, _ charge) error { return note(ctx) })))
	acme := bus.WithMetadata(t.Context(), message.Metadata{"tenant": "acme"})
	require.NoError(t, b.Publish(acme, placed{"1"}))
	require.NoError(t, b.Send(acme, charge{"1"}))
	require.NoError(t, b.SendTx(t.Context(), fakeTx{}, charge{"2"}))
	require.Equal(t, []message.Metadata{
		{"tenant": "acme", "hook": "published order.placed"}, {"tenant": "acme", "hook": "sent charge"}, {"tenant": "", "hook": "sent charge"},
	}, got)
	require.ErrorIs(t, b.Publish(acme, placed{}), refused)
}
