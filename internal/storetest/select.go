package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func selecting(promise promise) {
	ids := func(db db, f store.Filter) (ids []string) {
		db.t.Helper()
		for _, r := range db.runs(f) {
			ids = append(ids, r.EventID)
		}
		return ids
	}

	promise("runs are found by a condition on the payload", func(t *testing.T, db db) {
		db.subscribe("mail")
		for id, payload := range map[string]string{
			"number":  `{"user": {"id": 42, "tags": ["a", "b"], "vip": true, "x-y z": "%s"}}`,
			"text":    `{"user": {"id": "42", "vip": false, "gone": null}}`,
			"other":   `{"user": {"id": 43, "ratio": 42.0}}`,
			"scalar":  `42`,
			"array":   `[{"id": 42}]`,
			"not":     `{"user": {`,
			"invalid": "\xff\x00",
		} {
			e := event(id)
			e.Payload = []byte(payload)
			db.publish(e)
		}
		for condition, want := range map[string][]string{
			"user.id=42":        {"number", "text"},
			"user.id!=42":       {"array", "other", "scalar"},
			"user.vip=true":     {"number"},
			"user.vip=false":    {"text"},
			"user.tags.1=b":     {"number"},
			"user.x-y z=%s":     {"number"},
			"user.gone=null":    nil,
			"user.ratio=42.0":   {"other"},
			"user.ratio=42":     nil,
			"0.id=42":           {"array"},
			"nobody.is.there=1": nil,
		} {
			c, err := store.ParseCondition(condition)
			require.NoError(t, err)
			require.ElementsMatch(t, want, ids(db, store.Filter{Payload: []store.Condition{c}}), condition)
		}
		both := store.Filter{Payload: []store.Condition{
			{Path: []string{"user", "id"}, Op: store.Equal, Value: "42"}, {Path: []string{"user", "vip"}, Op: store.Equal, Value: "false"},
		}}
		require.Equal(t, []string{"text"}, ids(db, both))
		both.Payload[0].Path[0] = `us"er`
		_, err := db.Runs(ctx, both)
		require.ErrorContains(t, err, `payload condition "us\"er.id=42"`)
	})

	promise("a payload that PostgreSQL's json keeps but does not read keeps no other from being found", func(t *testing.T, db db) {
		db.subscribe("mail")
		for i, note := range []string{`\u0000`, `\u0000\u0000`, `\\u0000`, `\\\u0000`, `\ud83d`, `\ude00`, `\ud83d\ude00`, `\ud83d\ud83d\ude00`, `\ude00\ud83d`, `\ud83d\\`} {
			db.publish(store.Event{ID: fmt.Sprint(i), Topic: topic, Payload: []byte(`{"n": 7, "note": "` + note + `"}`)})
		}
		require.Len(t, db.runs(store.Filter{Payload: []store.Condition{{Path: []string{"n"}, Op: store.Equal, Value: "7"}}}), 10)
		require.Len(t, db.runs(store.Filter{Payload: []store.Condition{{Path: []string{"note"}, Op: store.Equal, Value: "\U0001F600"}}}), 1)
	})

	promise("runs are found by the text of their last failure", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		for id, message := range map[string]string{"1": "451 Mailbox FULL", "2": "100% wrong_", "3": "refused"} {
			db.publish(event(id))
			db.end(queue.Outcome{Lease: db.claimOne("a", "mail"), Status: store.Failed, Failure: store.NewFailure("mail", store.KindError, message)})
		}
		require.Equal(t, []string{"1"}, ids(db, store.Filter{Text: "mailbox full"}))
		require.Equal(t, []string{"2"}, ids(db, store.Filter{Text: "0% WRONG_"}))
		require.Empty(t, ids(db, store.Filter{Text: "%" + "x"}))
		groups, err := db.Groups(ctx, store.Filter{Text: "refused"})
		require.NoError(t, err)
		require.Len(t, groups, 1)
		require.EqualValues(t, 1, groups[0].Runs.N)
	})

	promise("by key, and by status, a page at a time", func(t *testing.T, db db) {
		db.subscribe("mail")
		for i := range 3 {
			db.fail(fmt.Sprint(i), "mail")
		}
		db.discard(db.runs(store.Filter{EventID: "1"})[0].ID)
		require.Equal(t, []string{"2"}, ids(db, store.Filter{Key: "key of 2"}))
		require.Equal(t, []string{"1"}, ids(db, store.Filter{Status: store.Discarded}))
		page, err := db.Page(ctx, store.Filter{Status: store.Failed, Limit: 1})
		require.NoError(t, err)
		require.Equal(t, "2", page.Runs[0].EventID)
		page, err = db.Page(ctx, store.Filter{Status: store.Failed, Limit: 1, Before: page.Next})
		require.NoError(t, err)
		require.Equal(t, "0", page.Runs[0].EventID)
		page, err = db.Page(ctx, store.Filter{Status: store.Failed, Limit: 1, Before: page.Next})
		require.NoError(t, err)
		require.Equal(t, store.Page{Runs: []store.Run{}}, page)
	})

	promise("a page looks at so many runs, and says where it stopped", func(t *testing.T, db db) {
		db.subscribe("rare")
		db.publish(event("wanted"))
		db.exec(`
			INSERT INTO reprise.handler_runs (event_id, topic, handler, due_at)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10500)
			SELECT 'event ' || n.i, e.topic, 'mail', e.published_at FROM n, reprise.events e`)
		f := store.Filter{Handler: "rare", Limit: 5}
		page, err := db.Page(ctx, f)
		require.NoError(t, err)
		require.Empty(t, page.Runs)
		require.Positive(t, page.Next)
		f.Before = page.Next
		page, err = db.Page(ctx, f)
		require.NoError(t, err)
		require.Len(t, page.Runs, 1)
		require.Zero(t, page.Next)
		require.Len(t, db.runs(store.Filter{Handler: "rare"}), 1, "Runs goes on by itself")

		for want, f := range map[string]store.Filter{
			"10000+": {Handler: "mail"}, "1": {Handler: "rare"}, "0": {Status: store.Failed},
		} {
			count, err := db.Count(ctx, f)
			require.NoError(t, err)
			require.Equal(t, want, count.String())
		}
	})

	promise("events are listed by time, a page at a time", func(t *testing.T, db db) {
		for i := range 5 {
			e := event(fmt.Sprint(i))
			if i == 3 {
				e.Topic = "invoices"
			}
			db.publish(e)
			db.exec(`UPDATE reprise.events SET published_at = $1 WHERE id = $2`, ago(time.Duration(10-i)*time.Hour), e.ID)
		}
		var got []string
		f := store.EventFilter{Topic: topic, Limit: 3}
		for pages := 0; pages == 0 || f.Before != nil; pages++ {
			events, next, err := db.Events(ctx, f)
			require.NoError(t, err)
			for _, e := range events {
				got = append(got, e.ID)
			}
			f.Before = next
		}
		require.Equal(t, []string{"4", "2", "1", "0"}, got)
		events, next, err := db.Events(ctx, store.EventFilter{Key: "key of 2", Since: db.event("2").PublishedAt, Until: db.event("4").PublishedAt})
		require.NoError(t, err)
		require.Nil(t, next)
		require.Len(t, events, 1)
		_, _, err = db.Events(ctx, store.EventFilter{Limit: -1})
		require.ErrorContains(t, err, "limit -1")
	})

	promise("who is subscribed, who serves, and what waits", func(t *testing.T, db db) {
		db.subscribe("mail", "audit")
		require.NoError(t, db.Register(ctx, store.Instance{ID: "a", Host: "host", PID: 7, Handlers: []string{"mail"}}))
		require.NoError(t, db.Register(ctx, store.Instance{ID: "silent", Host: "host", PID: 8, Handlers: []string{"mail", "audit"}}))
		db.silence("silent")
		db.publish(events("1", "2")...)
		db.claimOne("a", "mail")
		subscriptions, err := db.Subscriptions(ctx)
		require.NoError(t, err)
		require.Len(t, subscriptions, 2)
		require.Equal(t, []any{"audit", 0, int64(2)}, []any{subscriptions[0].Handler, subscriptions[0].Instances, subscriptions[0].Due.N})
		require.Equal(t, []any{"mail", 1, int64(1)}, []any{subscriptions[1].Handler, subscriptions[1].Instances, subscriptions[1].Due.N})
		require.WithinDuration(t, time.Now(), subscriptions[0].OldestDue, time.Minute)
		instances, err := db.Instances(ctx)
		require.NoError(t, err)
		require.Len(t, instances, 2)
		for _, in := range instances {
			require.Equal(t, in.ID == "silent", in.Silence > 30*time.Minute)
		}
		_, err = db.Sizes(ctx)
		require.NoError(t, err)
		now, err := db.Clock(ctx)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), now, time.Minute)
	})
}
