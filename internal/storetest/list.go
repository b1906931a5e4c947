package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/store"
)

func listing(promise promise) {
	promise("what is not there is ErrNotFound, and lists are empty", func(t *testing.T, db db) {
		_, err := db.Run(ctx, 7)
		require.ErrorIs(t, err, store.ErrNotFound)
		require.ErrorContains(t, err, "run 7")
		_, err = db.Event(ctx, topic, "nothing")
		require.ErrorIs(t, err, store.ErrNotFound)
		require.ErrorContains(t, err, `"nothing"`)
		db.publish(event("1"))
		_, err = db.Event(ctx, "another", "1")
		require.ErrorIs(t, err, store.ErrNotFound)
		require.Empty(t, db.attempts(7))
		require.Empty(t, db.runs(store.Filter{}))
	})

	promise("the filter selects by each field and by all of them", func(t *testing.T, db db) {
		require.NoError(t, db.Subscribe(ctx, store.Subscription{Topic: "payments", Handler: "mail"}, ""))
		db.subscribe("mail")
		payment := event("3")
		payment.Topic = "payments"
		broken := db.fail("1", "mail") // run 1
		db.subscribe("stock")
		db.publish(event("2"))
		db.publish(payment)
		ids := map[string]int64{"1 mail": broken.ID}
		for _, r := range db.runs(store.Filter{Status: store.Pending}) {
			ids[r.EventID+" "+r.Handler] = r.ID
		}
		require.Len(t, ids, 4)
		db.discard(ids["2 stock"])

		for _, c := range []struct {
			filter store.Filter
			want   []string
		}{
			{store.Filter{}, []string{"1 mail", "2 mail", "2 stock", "3 mail"}},
			{store.Filter{Status: store.Pending}, []string{"2 mail", "3 mail"}},
			{store.Filter{Status: store.Failed}, []string{"1 mail"}},
			{store.Filter{Status: store.Discarded}, []string{"2 stock"}},
			{store.Filter{Status: store.Success}, nil},
			{store.Filter{Handler: "mail"}, []string{"1 mail", "2 mail", "3 mail"}},
			{store.Filter{Handler: "MAIL"}, nil},
			{store.Filter{Handler: "mai%"}, nil},
			{store.Filter{Handler: "'; --"}, nil},
			{store.Filter{Topic: topic}, []string{"1 mail", "2 mail", "2 stock"}},
			{store.Filter{Topic: "payments"}, []string{"3 mail"}},
			{store.Filter{EventID: "2"}, []string{"2 mail", "2 stock"}},
			{store.Filter{IDs: []int64{broken.ID, ids["3 mail"], 999}}, []string{"1 mail", "3 mail"}},
			{store.Filter{IDs: []int64{broken.ID, broken.ID}}, []string{"1 mail"}},
			{store.Filter{Topic: topic, Handler: "mail"}, []string{"1 mail", "2 mail"}},
			{store.Filter{Topic: topic, Handler: "mail", Status: store.Pending, EventID: "2", IDs: []int64{ids["2 mail"], broken.ID}}, []string{"2 mail"}},
			{store.Filter{Topic: "payments", Handler: "stock"}, nil},
			{store.Filter{Status: store.Failed, IDs: []int64{ids["2 mail"]}}, nil},
			{store.Filter{Handler: "mail", Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour)}, []string{"1 mail", "2 mail", "3 mail"}},
			{store.Filter{Since: time.Now().Add(time.Hour)}, nil},
		} {
			var got []string
			for _, r := range db.runs(c.filter) {
				got = append(got, r.EventID+" "+r.Handler)
			}
			require.ElementsMatch(t, c.want, got, "%+v", c.filter)
		}
	})

	promise("since is included and until is not, to the instant", func(t *testing.T, db db) {
		db.subscribe("mail")
		for _, id := range []string{"1", "2", "3"} {
			db.publish(event(id))
		}
		noon := time.Date(2026, 7, 1, 12, 0, 0, 678_000_000, time.UTC)
		for i, id := range []string{"1", "2", "3"} {
			db.exec(`UPDATE reprise.events SET published_at = $1 WHERE id = $2`, at(noon.Add(time.Duration(i)*time.Millisecond)), id)
			db.exec(`UPDATE reprise.handler_runs SET published_at = (SELECT published_at FROM reprise.events WHERE id = event_id)`)
		}
		stored, err := db.Event(ctx, topic, "2")
		require.NoError(t, err)
		second := stored.PublishedAt
		require.Equal(t, noon.Add(time.Millisecond), second)

		for _, c := range []struct {
			filter store.Filter
			want   []string
		}{
			{store.Filter{Since: second}, []string{"3", "2"}},
			{store.Filter{Since: second.Add(time.Nanosecond)}, []string{"3"}},
			{store.Filter{Since: second.Add(-time.Nanosecond)}, []string{"3", "2"}},
			{store.Filter{Until: second}, []string{"1"}},
			{store.Filter{Until: second.Add(time.Nanosecond)}, []string{"2", "1"}},
			{store.Filter{Until: second.Add(-time.Nanosecond)}, []string{"1"}},
			{store.Filter{Since: second, Until: second.Add(time.Millisecond)}, []string{"2"}},
			{store.Filter{Since: second.In(time.FixedZone("", 5*3600))}, []string{"3", "2"}},
			{store.Filter{Since: time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC)}, []string{"3", "2", "1"}},
		} {
			var got []string
			for _, r := range db.runs(c.filter) {
				got = append(got, r.EventID)
			}
			require.Equal(t, c.want, got, "since %v, until %v", c.filter.Since, c.filter.Until)
		}
	})

	promise("pages show each run once, newest first, while new ones come in", func(t *testing.T, db db) {
		db.subscribe("mail")
		for i := range 25 {
			db.publish(event(fmt.Sprint(i)))
		}
		var seen []string
		sizes := []int{}
		f := store.Filter{Limit: 10}
		for {
			page := db.runs(f)
			sizes = append(sizes, len(page))
			for _, r := range page {
				seen = append(seen, r.EventID)
			}
			if len(page) < f.Limit {
				break
			}
			f.Before = page[len(page)-1].ID
			db.publish(event(fmt.Sprint("new ", len(sizes))))
		}
		require.Equal(t, []int{10, 10, 5}, sizes)
		for i, id := range seen {
			require.Equal(t, fmt.Sprint(24-i), id)
		}
	})

	promise("a page has 100 runs unless asked otherwise", func(t *testing.T, db db) {
		db.subscribe("mail")
		batch := make([]store.Event, store.DefaultLimit+5)
		for i := range batch {
			batch[i] = event(fmt.Sprint(i))
		}
		db.publish(batch...)
		require.Len(t, db.runs(store.Filter{}), store.DefaultLimit)
		all := db.runs(store.Filter{Limit: store.MaxLimit})
		require.Len(t, all, len(batch))
		ids := make([]int64, store.MaxLimit)
		for i := range ids {
			ids[i] = all[i%len(all)].ID
		}
		require.Equal(t, all, db.runs(store.Filter{IDs: ids, Limit: store.MaxLimit}))
	})

	promise("a filter that cannot be meant is refused by the name of its field", func(t *testing.T, db db) {
		for want, f := range map[string]store.Filter{
			`status "failed": want one of`: {Status: "failed"},
			"before -1":                    {Before: -1},
			"limit 1001: want 1 to 1000":   {Limit: 1001},
		} {
			_, err := db.Runs(ctx, f)
			require.ErrorContains(t, err, want)
			_, err = db.Request(ctx, replay(f))
			require.ErrorContains(t, err, want)
		}
		require.Empty(t, db.column(`SELECT requested_by FROM reprise.operations`))
	})
}
