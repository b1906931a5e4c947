package storetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/store"
)

func grouping(promise promise) {
	// failing ends a run of a handler of its own as FAILED, with the message.
	failing := func(db db, id, handler, message string) store.Run {
		db.t.Helper()
		db.publish(event(id))
		lease := db.claimOne("a", handler)
		db.end(store.Outcome{Lease: lease, Status: store.Failed, Failure: store.NewFailure(handler, store.KindError, message)})
		return db.run(lease.RunID)
	}

	promise("a thousand equal failures are one group, which can be replayed", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		first := failing(db, "1", "mail", `451 "ada": try later`)
		failing(db, "2", "mail", `451 "bob": try later`)
		last := failing(db, "3", "mail", `451 "eve": try later`)
		other := failing(db, "4", "mail", "no such mailbox")

		groups, err := db.Groups(ctx, store.Filter{})
		require.NoError(t, err)
		require.Len(t, groups, 2)
		require.Equal(t, store.Group{
			Fingerprint: first.Fingerprint, Handler: "mail", Kind: store.KindError, Error: last.Error,
			Runs: store.Count{N: 3}, First: first.FinishedAt, Last: last.FinishedAt, Oldest: first.ID, Newest: last.ID,
		}, groups[0])
		require.Equal(t, other.ID, groups[1].Newest)
		require.Equal(t, "1", groups[1].Runs.String())

		group := store.Filter{Group: first.Fingerprint}
		require.Len(t, db.runs(group), 3)
		again := db.operate(replay(group))
		require.EqualValues(t, 3, again.Taken)
		require.Len(t, db.runs(store.Filter{Replay: again.ID}), 3)

		groups, err = db.Groups(ctx, store.Filter{})
		require.NoError(t, err)
		require.Len(t, groups, 1, "what is tried again is not FAILED")
		require.Equal(t, other.Fingerprint, groups[0].Fingerprint)
	})

	promise("groups are those of the selection, the largest first, no more than the limit", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		for i, id := range []string{"1", "2", "3", "4", "5", "6"} {
			failing(db, id, "mail", []string{"once", "twice", "twice", "thrice", "thrice", "thrice"}[i])
		}
		groups, err := db.Groups(ctx, store.Filter{Limit: 2})
		require.NoError(t, err)
		require.Len(t, groups, 2)
		require.Equal(t, "thrice", groups[0].Error)
		require.Equal(t, "twice", groups[1].Error)
		groups, err = db.Groups(ctx, store.Filter{Handler: "mail", Kind: store.KindError, Until: time.Now().Add(-time.Hour)})
		require.NoError(t, err)
		require.Empty(t, groups)
		for want, f := range map[string]store.Filter{
			"want FAILED":                  {Status: store.Success},
			"16 hexadecimal digits":        {Group: "mail"},
			"want the id of a replay":      {Replay: -1},
			"kind \"\\n\": want valid UTF": {Kind: "\n"},
		} {
			_, err := db.Groups(ctx, f)
			require.ErrorContains(t, err, want)
		}
	})
}
