package reprise_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

type reserve struct{ Room string }

func (reserve) EventName() string { return "reserve" }

type reserved struct{ Room string }

func (reserved) EventName() string { return "reserved" }

type breakfastOrdered struct{ Room string }

func (breakfastOrdered) EventName() string { return "breakfast_ordered" }

// A command that another process sends, the events that come of it, and a group of one
// slot that handles both types, never two of them at once.
func TestCommandsAndGroupsOnEveryTransport(t *testing.T) {
	eachTransport(t, func(t *testing.T, open func() *bus.Bus) {
		const n = 10
		b, sender := open(), open()
		require.NoError(t, b.HandleCommands(cqrs.NewCommandHandler("book", func(ctx context.Context, c *reserve) error {
			if err := b.Publish(ctx, reserved(*c)); err != nil {
				return err
			}
			return b.Publish(ctx, breakfastOrdered(*c))
		})))
		var running atomic.Int64
		handle := func(ctx context.Context) error {
			if k := running.Add(1); k > 1 {
				t.Errorf("%d events of the group at once", k)
			}
			defer running.Add(-1)
			return b.DB().PingContext(ctx) // so that others could begin
		}
		require.NoError(t, b.HandleGroup("bill", handlers.Policy{Concurrency: 1},
			cqrs.NewGroupEventHandler(func(ctx context.Context, _ *reserved) error { return handle(ctx) }),
			cqrs.NewGroupEventHandler(func(ctx context.Context, _ *breakfastOrdered) error { return handle(ctx) })))
		run(t, b)
		run(t, sender) // which sends what is in its outbox
		for range n {
			require.NoError(t, sender.Send(t.Context(), reserve{"7"}))
		}
		require.NoError(t, sender.InTx(t.Context(), func(tx *bus.Tx) error { return sender.SendTx(t.Context(), tx, reserve{"8"}) }))
		for handler, want := range map[string]int{"book": n + 1, "bill": 2 * (n + 1)} {
			require.Eventually(t, func() bool {
				runs, err := b.Store().Runs(t.Context(), store.Filter{Handler: handler, Status: store.Success})
				return err == nil && len(runs) == want
			}, 2*time.Minute, 10*time.Millisecond, "%s", handler)
		}
	})
}
