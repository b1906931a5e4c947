package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func cancelling(promise promise) {
	promise("a cancelled context is an error, and nothing is lost", func(t *testing.T, db db) {
		db.subscribe("mail")
		failed := db.fail("failed", "mail")
		db.register("a", "silent")
		db.publish(event("held"))
		held := db.claimOne("a", "mail")
		db.publish(event("due"))
		db.silence("silent")
		before := db.runs(store.Filter{})
		instances := db.column(`SELECT id FROM reprise.instances ORDER BY id`)

		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		delivered := event("delivered")
		delivered.Source = "kafka"
		for name, call := range map[string]func(ctx context.Context) error{
			"Insert": func(ctx context.Context) error {
				_, err := db.tryInsert(ctx, db.DB(), event("new"))
				return err
			},
			"Subscribe": func(ctx context.Context) error {
				return db.Subscribe(ctx, store.Subscription{Topic: topic, Handler: "stock"}, "")
			},
			"Claim": func(ctx context.Context) error {
				_, err := db.Claim(ctx, queue.Claimant{Instance: "a"}, []queue.Want{want(topic, "mail", 10)})
				return err
			},
			"End": func(ctx context.Context) error {
				_, err := db.End(ctx, []queue.Outcome{{Lease: held, Status: store.Success}})
				return err
			},
			"Record":   func(ctx context.Context) error { _, err := db.Record(ctx, delivered, "mail", "a", false); return err },
			"Register": func(ctx context.Context) error { return db.Register(ctx, store.Instance{ID: "new", Host: "host"}) },
			"Heartbeat": func(ctx context.Context) error {
				_, err := db.Heartbeat(ctx, nil, "silent", queue.HeartbeatReport{})
				return err
			},
			"Held":       func(ctx context.Context) error { _, err := db.Held(ctx, "a"); return err },
			"Deregister": func(ctx context.Context) error { return db.Deregister(ctx, "a") },
			"Recover":    func(ctx context.Context) error { _, err := db.Recover(ctx, "a"); return err },
			"Runs":       func(ctx context.Context) error { _, err := db.Runs(ctx, store.Filter{}); return err },
			"Run":        func(ctx context.Context) error { _, err := db.Run(ctx, failed.ID); return err },
			"Attempts":   func(ctx context.Context) error { _, err := db.Attempts(ctx, failed.ID); return err },
			"Event":      func(ctx context.Context) error { _, err := db.Event(ctx, topic, "due"); return err },
			"Request": func(ctx context.Context) error {
				_, err := db.Request(ctx, replay(store.Filter{Handler: "mail"}))
				return err
			},
			"Take":     func(ctx context.Context) error { _, err := db.Take(ctx, 1); return err },
			"Pause":    func(ctx context.Context) error { _, err := db.Pause(ctx, 1, maria); return err },
			"Progress": func(ctx context.Context) error { _, err := db.Progress(ctx, 1); return err },
			"Groups":   func(ctx context.Context) error { _, err := db.Groups(ctx, store.Filter{}); return err },
			"Count":    func(ctx context.Context) error { _, err := db.Count(ctx, store.Filter{}); return err },
			"Prune": func(ctx context.Context) error {
				_, _, err := db.PruneBatch(ctx, store.Prune{Before: time.Now().Add(time.Hour), Failed: true, By: maria}, nil)
				return err
			},
			"WriteOutbox": func(ctx context.Context) error {
				_, err := db.WriteOutbox(ctx, db.DB(), []store.Event{event("new")}, func(string) bool { return false })
				return err
			},
			"Relay":        func(ctx context.Context) error { _, err := db.Relay(ctx, "a", time.Minute); return err },
			"NextOutgoing": func(ctx context.Context) error { _, err := db.NextOutgoing(ctx, topic, 1, 1); return err },
			"Sent":         func(ctx context.Context) error { return db.Sent(ctx, []int64{1}) },
			"ChangeOutbox": func(ctx context.Context) error {
				_, err := db.ChangeOutbox(ctx, store.Operation{Kind: store.Releasing, RequestedBy: "maria"})
				return err
			},
			"DeclareTopics": func(ctx context.Context) error { return db.DeclareTopics(ctx, []store.Topic{{Topic: topic}}) },
			"New":           func(ctx context.Context) error { _, err := store.New(ctx, db.DB().DB, db.Schema()); return err },
		} {
			require.ErrorIs(t, call(cancelled), context.Canceled, name)
		}
		require.Equal(t, before, db.runs(store.Filter{}))
		require.Equal(t, instances, db.column(`SELECT id FROM reprise.instances ORDER BY id`))

		db.end(queue.Outcome{Lease: held, Status: store.Success})
		require.Equal(t, "due", db.run(db.claimOne("a", "mail").RunID).EventID)
	})

	promise("what a claim that is cut off may have leased is known by its instance", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		db.publish(event("1"))
		cut, cancel := context.WithCancel(ctx)
		claimed := make(chan []*queue.Claimed)
		go func() {
			c, _ := db.Claim(cut, queue.Claimant{Instance: "a"}, []queue.Want{want(topic, "mail", 1)})
			claimed <- c
		}()
		cancel()
		if len(<-claimed) > 0 {
			return // it was faster
		}
		require.NoError(t, db.Deregister(ctx, "a"))
		db.register("b")
		db.claimOne("b", "mail")
	})
}
