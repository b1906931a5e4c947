package pubsub_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// However a run comes to its handler, its handler is told what the database has.
func TestAHandlerIsToldWhatTheDatabaseKnowsOfItsRun(t *testing.T) {
	ways := map[string]func(t *testing.T, ps *pubsub.PubSub){
		"alone": func(t *testing.T, ps *pubsub.PubSub) {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		},
		"several": func(t *testing.T, ps *pubsub.PubSub) {
			require.NoError(t, ps.Publisher().Publish("topic", newMessage("x"), newMessage("y")))
		},
		"several, after a known one": func(t *testing.T, ps *pubsub.PubSub) {
			msg := newMessage("x")
			require.NoError(t, ps.Publisher().Publish("topic", msg))
			require.NoError(t, ps.Publisher().Publish("topic", msg, newMessage("y"), newMessage("z")))
		},
		"in a transaction of the bus": func(t *testing.T, ps *pubsub.PubSub) {
			require.NoError(t, ps.InTx(t.Context(), func(tx *pubsub.Transaction) error {
				return ps.PublisherTx(tx).Publish("topic", newMessage("x"))
			}))
		},
	}
	for name, publish := range ways {
		t.Run(name, func(t *testing.T) {
			testdb.Each(t, func(t *testing.T, url string) {
				st := testkit.OpenStore(t, url)
				ps := newPubSub(t, st)
				calls := work(t, ps, again, func(run store.Run) error {
					requireTold(t, st, run)
					if run.Attempt == 1 {
						return errWrong
					}
					return nil
				})
				publish(t, ps)
				testkit.Receive(t, calls)
				require.Eventually(t, func() bool {
					return len(runs(t, st, store.Filter{Status: store.Success})) == len(runs(t, st, store.Filter{}))
				}, patience, 5*time.Millisecond)
			})
		})
	}
}

// An Inbox hands over what another handler's Inbox has recorded long ago.
func TestAnInboxTellsWhenAnEventWasPublishedThatIsKnown(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		first, second := make(fed, 1), make(fed, 1)
		ps := newPubSub(t, st)
		msg := newMessage("x")
		for handler, transport := range map[string]fed{"first": first, "second": second} {
			in, err := ps.Inbox(transport, handler, again, pubsub.InboxConfig{Source: "broker"})
			require.NoError(t, err)
			messages, err := in.Subscribe(t.Context(), "topic")
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, in.Close()) })
			transport <- msg.Copy()
			got := testkit.Receive(t, messages)
			d, ok := handlers.DeliveryFrom(got.Context())
			require.True(t, ok)
			requireTold(t, st, d.Run())
			got.Ack()
			testkit.WaitForStatus(t, st, handler, store.Success, 1)
			exec(t, st, `UPDATE `+testkit.Table(st, "events")+` SET published_at = '2020-02-20T20:20:20.125Z'`)
		}
		testkit.RequireCount(t, st, "events", 1)
	})
}

// A callback is told of the attempt that failed, and of the cycle to come.
func TestACallbackIsToldWhatTheDatabaseKnowsOfItsRun(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		ps := newPubSub(t, st)
		called := make(chan store.Run, 2)
		call := func(_ context.Context, run store.Run, _ error) error {
			was, err := st.Run(t.Context(), run.ID)
			require.NoError(t, err)
			require.Equal(t, was.StartedAt, run.StartedAt)
			require.Equal(t, was.PublishedAt, run.PublishedAt)
			called <- run
			return nil
		}
		work(t, ps, handlers.Policy{Attempts: 1, Cycles: 2, CycleInterval: time.Hour, OnFailure: call}, func(run store.Run) error {
			if run.Cycle == 1 {
				return handlers.Permanent(errors.New("never"))
			}
			return errWrong
		})
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		run := testkit.Receive(t, called)
		require.Equal(t, store.Pending, run.Status)
		require.WithinDuration(t, time.Now().Add(time.Hour), run.DueAt, 10*time.Minute)
		require.Eventually(t, func() bool { return only(t, st).Cycle == 1 }, patience, 5*time.Millisecond)
		exec(t, st, `UPDATE `+testkit.Table(st, "handler_runs")+` SET due_at = '2020-02-20T20:20:20.125Z'`)
		run = testkit.Receive(t, called)
		require.Equal(t, store.Failed, run.Status)
		require.Zero(t, run.DueAt)
	})
}

func requireTold(t *testing.T, st *store.Store, told store.Run) {
	t.Helper()
	run, err := st.Run(t.Context(), told.ID)
	require.NoError(t, err)
	require.NotZero(t, run.StartedAt)
	require.NotZero(t, run.PublishedAt)
	require.Equal(t, run, told)
}
