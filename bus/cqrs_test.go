package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/store"
)

type charge struct{ Order string }

func (charge) EventName() string { return "charge" }

// A command goes to its one handler, by Send and by SendTx.
func TestCommands(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		charged, ported := make(chan string, 2), make(chan string, 1)
		require.NoError(t, b.HandleCommands(
			do("charge-card", func(_ context.Context, c charge) error { charged <- c.Order; return nil }),
			cqrs.NewCommandHandler("ship", func(_ context.Context, c *placed) error { ported <- c.Order; return nil }),
		))
		run(t, b)
		require.NoError(t, b.Send(t.Context(), charge{"1"}))
		require.Equal(t, "1", testkit.Receive(t, charged))
		require.NoError(t, b.InTx(t.Context(), func(tx *bus.Tx) error { return b.SendTx(t.Context(), tx, &charge{"2"}) }))
		require.Equal(t, "2", testkit.Receive(t, charged))
		require.NoError(t, b.Send(t.Context(), &placed{"3"}))
		require.Equal(t, "3", testkit.Receive(t, ported))
		require.ErrorContains(t, b.Send(t.Context(), nil), "the event is nil")
		require.ErrorContains(t, b.SendTx(t.Context(), nil, charge{}), "transaction is nil")

		require.Error(t, b.InTx(t.Context(), func(tx *bus.Tx) error {
			require.NoError(t, b.SendTx(t.Context(), tx, charge{"4"}))
			return errors.New("rolled back")
		}))
		runs, err := b.Store().Runs(t.Context(), store.Filter{Handler: "charge-card"})
		require.NoError(t, err)
		require.Len(t, runs, 2)
	})
}

// A second handler of a command is refused: of the same call, of another one, of
// another process.
func TestACommandHasOneHandler(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		const one = "a command has exactly one handler"
		require.ErrorContains(t, b.HandleCommands(nothing[charge]("a"), nothing[*charge]("b")), one)
		require.NoError(t, b.Handle(nothing[placed]("event")))
		require.ErrorContains(t, b.HandleCommands(nothing[placed]("c")), one)
		require.NoError(t, b.HandleCommands(nothing[charge]("a")))
		require.ErrorContains(t, b.HandleCommands(nothing[charge]("b")), `command "charge" has the handler "a", and cannot have "b"`)
		require.ErrorContains(t, b.HandleCommands(nothing[charge]("a")), "two handlers are named")
		require.ErrorContains(t, b.Handle(nothing[charge]("b")), one)
		require.ErrorContains(t, b.HandleGroup("b", handlers.Policy{}, nothing[charge]("")), one)
		require.ErrorContains(t, b.HandleCommands(nil), "the handler is nil")
		require.ErrorContains(t, b.HandleCommands(do[charge]("x", nil)), "has no function")

		other := open(t, url)
		require.NoError(t, other.HandleCommands(nothing[charge]("a")), "the same handler in another process")
		third := open(t, url)
		require.ErrorContains(t, third.HandleCommands(nothing[charge]("renamed")), "to remove it if that handler is no more: reprise handlers remove")
		require.NoError(t, operate.On(third.Store()).Unsubscribe(t.Context(), store.Subscription{Topic: "charge", Handler: "a"}, store.By{Name: "maria"}))
		require.NoError(t, third.HandleCommands(nothing[charge]("renamed")))

		subscribed, err := b.Store().SubscriptionKeys(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[store.Subscription]bool{{Topic: "charge", Handler: "renamed"}: true, {Topic: "order.placed", Handler: "event"}: true}, subscribed)
	})
}

// The handlers of a group have one name and one policy, and each gets its type.
func TestAGroup(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		got := make(chan any, 2)
		policy := handlers.Policy{Attempts: 1, Cycles: 1}
		require.NoError(t, b.HandleGroup("ledger", policy,
			cqrs.NewGroupEventHandler(func(_ context.Context, e *placed) error { got <- *e; return errors.New("no") }),
			nothing[*charge]("a name that does not count"),
			handlers.New("", func(_ context.Context, e paid) error { got <- e; return nil }),
		))
		require.NoError(t, b.Handle(nothing[placed]("other")))
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), placed{"1"}, paid{"2"}))
		require.ElementsMatch(t, []any{placed{"1"}, paid{"2"}}, []any{testkit.Receive(t, got), testkit.Receive(t, got)})
		for _, want := range []store.Filter{
			{Handler: "ledger", Topic: "order.placed", Status: store.Failed},
			{Handler: "ledger", Topic: "order.paid", Status: store.Success},
			{Handler: "other", Status: store.Success},
		} {
			require.Eventually(t, func() bool {
				runs, err := b.Store().Runs(t.Context(), want)
				return err == nil && len(runs) == 1
			}, patience, time.Millisecond, "%v", want)
		}
	})
}

// A type of event that a newer program's group no longer has is served by nobody.
func TestATopicThatLeftItsGroupIsNotServed(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		before := open(t, url)
		require.NoError(t, before.HandleGroup("ledger", handlers.Policy{}, nothing[placed](""), nothing[paid]("")))
		b, err := bus.New(t.Context(), bus.Config{DB: before.DB(), Logger: quiet()})
		require.NoError(t, err)
		require.NoError(t, b.HandleGroup("ledger", handlers.Policy{}, nothing[placed]("")))
		run(t, b)
		instances := map[string]int{}
		require.Eventually(t, func() bool {
			subscribed, err := b.Store().Subscriptions(t.Context())
			require.NoError(t, err)
			for _, s := range subscribed {
				instances[s.Topic] = s.Instances
			}
			return instances["order.placed"] == 1
		}, patience, time.Millisecond)
		require.Equal(t, map[string]int{"order.placed": 1, "order.paid": 0}, instances)
	})
}

// A command that no handler is registered for is on record, and warned of once.
func TestACommandWithoutAHandlerIsWarnedOfOnce(t *testing.T) {
	for name, send := range map[string]func(t *testing.T, b *bus.Bus, command any) error{
		"Send": func(t *testing.T, b *bus.Bus, command any) error { return b.Send(t.Context(), command) },
		"SendTx in InTx": func(t *testing.T, b *bus.Bus, command any) error {
			return b.InTx(t.Context(), func(tx *bus.Tx) error { return b.SendTx(t.Context(), tx, command) })
		},
		"SendTx": func(t *testing.T, b *bus.Bus, command any) error {
			tx, err := b.DB().BeginTx(t.Context(), nil)
			require.NoError(t, err)
			require.NoError(t, b.SendTx(t.Context(), tx, command))
			return tx.Commit()
		},
	} {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				require.NoError(t, open(t, url).HandleCommands(nothing[placed]("of another process")))
				var log lines
				b, err := bus.Open(t.Context(), url, bus.Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, b.Close()) })
				require.NoError(t, b.HandleCommands(nothing[paid]("of this process")))
				for _, order := range []string{"1", "2"} {
					for _, command := range []any{placed{order}, charge{order}, paid{order}} {
						require.NoError(t, send(t, b, command))
					}
				}
				events, _, err := b.Store().Events(t.Context(), store.EventFilter{Topic: "charge"})
				require.NoError(t, err)
				require.Len(t, events, 2)
				log.mu.Lock()
				defer log.mu.Unlock()
				text := log.out.String()
				require.Equal(t, 1, strings.Count(text, "nobody is subscribed"), text)
				require.Contains(t, text, "topic=charge")
			})
		})
	}
}

func TestHandleGroupSaysWhatIsWrong(t *testing.T) {
	b := open(t, "sqlite::memory:")
	group := func(name string, members ...cqrs.GroupEventHandler) error {
		return b.HandleGroup(name, handlers.Policy{}, members...)
	}
	require.NoError(t, b.Handle(nothing[placed]("taken")))
	require.ErrorContains(t, group("g"), `group "g" has no handlers`)
	require.ErrorContains(t, group("g", nil), "the handler is nil")
	require.ErrorContains(t, group("g", do[paid]("", nil)), "has no function")
	require.ErrorContains(t, group("", nothing[paid]("")), "has no name")
	require.ErrorContains(t, group("g", nothing[paid](""), nothing[*paid]("")), `group "g" has two handlers on topic "order.paid"`)
	require.ErrorContains(t, group("taken", nothing[paid]("")), `two handlers are named "taken"`)
	require.ErrorContains(t, group("g", nothing[any]("")), "is an interface")
	require.ErrorContains(t, b.HandleGroup("g", handlers.Policy{Attempts: -1}, nothing[paid]("")), "field Attempts")
	require.NoError(t, group("g", nothing[paid]("")))
	require.ErrorContains(t, group("g", nothing[charge]("")), `two handlers are named "g"`)
}

type tenantKey struct{}

// The hooks see what is published and the caller's context; the metadata of a context
// goes with everything that is published under it.
func TestHooksAndMetadata(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		refuse := errors.New("refused")
		b := openWith(t, url, bus.Config{
			OnPublish: func(p cqrs.OnEventSendParams) error {
				if p.Message.Context().Value(tenantKey{}) == nil {
					return refuse
				}
				require.IsType(t, placed{}, p.Event)
				require.Equal(t, "order.placed", p.EventName)
				p.Message.Metadata.Set("tenant", p.Message.Context().Value(tenantKey{}).(string))
				return nil
			},
			OnSend: func(p cqrs.CommandBusOnSendParams) error {
				require.Equal(t, "charge", p.CommandName)
				p.Message.Metadata.Set("seen", "yes, "+p.Message.Metadata.Get("user"))
				return nil
			},
		})
		ctx := context.WithValue(t.Context(), tenantKey{}, "acme")
		outer := bus.WithMetadata(ctx, message.Metadata{"user": "ada", "request": "1", "key": "of the call"})
		inner := bus.WithMetadata(outer, message.Metadata{"user": "grace"})
		require.NoError(t, b.Publish(ctx, placed{"plain"}))
		require.NoError(t, b.Publish(inner, placed{"published"}))
		require.NoError(t, b.InTx(outer, func(tx *bus.Tx) error {
			require.NoError(t, b.SendTx(inner, tx, charge{"sentTx"}))
			return b.PublishTx(outer, tx, placed{"publishedTx"})
		}))
		require.NoError(t, b.Send(outer, charge{"sent"}))
		require.ErrorIs(t, b.Publish(t.Context(), placed{"refused"}), refuse)
		require.NoError(t, b.Publish(outer, placed{"several"}, placed{"several, too"}))

		events, _, err := b.Store().Events(t.Context(), store.EventFilter{})
		require.NoError(t, err)
		got := map[string]map[string]string{}
		for _, head := range events {
			e, err := b.Store().Event(t.Context(), head.Topic, head.ID)
			require.NoError(t, err)
			delete(e.Metadata, "name")
			got[string(e.Payload)] = e.Metadata
			if e.Metadata["key"] != "" {
				require.Equal(t, "of the call", e.Key)
			}
		}
		ada := func(more map[string]string) map[string]string {
			all := map[string]string{"user": "ada", "request": "1", "key": "of the call"}
			for k, v := range more {
				all[k] = v
			}
			return all
		}
		require.Equal(t, map[string]map[string]string{
			`{"Order":"plain"}`:        {"tenant": "acme"},
			`{"Order":"published"}`:    ada(map[string]string{"user": "grace", "tenant": "acme"}),
			`{"Order":"sentTx"}`:       ada(map[string]string{"user": "grace", "seen": "yes, grace"}),
			`{"Order":"publishedTx"}`:  ada(map[string]string{"tenant": "acme"}),
			`{"Order":"sent"}`:         ada(map[string]string{"seen": "yes, ada"}),
			`{"Order":"several"}`:      ada(map[string]string{"tenant": "acme"}),
			`{"Order":"several, too"}`: ada(map[string]string{"tenant": "acme"}),
		}, got)
	})
}
