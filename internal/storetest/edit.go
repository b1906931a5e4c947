package storetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func editing(promise promise) {
	edit := func(db db, id int64, c store.Correction) (store.Operation, store.Run, error) {
		return db.Edit(ctx, id, c, "ops", "a typing error")
	}

	promise("a corrected event amends the old one, for one handler", func(t *testing.T, db db) {
		db.subscribe("mail", "audit")
		failed := db.fail("1", "mail")
		o, run, err := edit(db, failed.ID, store.Correction{Payload: []byte(`{"order": "one"}`)})
		require.NoError(t, err)
		require.Equal(t, store.Editing, o.Kind)
		require.Equal(t, o.ID, run.ReplayID)
		require.NotEqual(t, "1", run.EventID)

		old, amended := db.event("1"), db.event(run.EventID)
		require.Equal(t, event("1").Payload, old.Payload, "history is as it was")
		require.Equal(t, `{"order": "one"}`, string(amended.Payload))
		require.Equal(t, []string{"1", store.SourceEdit, old.Key}, []string{amended.Amends, amended.Source, amended.Key})
		require.Equal(t, store.Discarded, db.run(failed.ID).Status)
		require.Equal(t, []store.Run{run}, db.runs(store.Filter{EventID: run.EventID}))

		lease := db.claimOne("the one that fails", "mail")
		require.Equal(t, run.ID, lease.RunID)
		db.end(queue.Outcome{Lease: lease, Status: store.Success})
		require.EqualValues(t, 1, db.progress(o.ID).Succeeded)
	})

	promise("metadata and payloads that are not JSON can be corrected, too", func(t *testing.T, db db) {
		db.subscribe("mail")
		failed := db.fail("1", "mail")
		db.discard(failed.ID)
		_, run, err := edit(db, failed.ID, store.Correction{Payload: []byte{0, 0xff}, Metadata: map[string]string{"tenant": "7"}})
		require.NoError(t, err)
		amended := db.event(run.EventID)
		require.Equal(t, []byte{0, 0xff}, amended.Payload)
		require.Equal(t, map[string]string{"tenant": "7"}, amended.Metadata)
	})

	promise("what cannot be edited stays as it is", func(t *testing.T, db db) {
		db.subscribe("mail")
		failed := db.fail("failed", "mail")
		db.publish(event("due"))
		due := db.runs(store.Filter{EventID: "due"})[0]
		correction := store.Correction{Payload: []byte("{}")}
		_, _, err := edit(db, due.ID, correction)
		require.ErrorIs(t, err, store.ErrNotEnded)
		_, _, err = edit(db, 4711, correction)
		require.ErrorIs(t, err, store.ErrNotFound)
		_, _, err = edit(db, failed.ID, store.Correction{Payload: event("failed").Payload})
		require.ErrorContains(t, err, "the correction changes nothing")
		_, _, err = edit(db, failed.ID, store.Correction{Metadata: map[string]string{"a": "\xff"}})
		require.ErrorContains(t, err, "want valid UTF-8")
		db.exec(`DELETE FROM reprise.subscriptions`)
		_, _, err = edit(db, failed.ID, correction)
		require.ErrorContains(t, err, "no subscription")
		require.Equal(t, failed, db.run(failed.ID))
		require.Empty(t, db.column(`SELECT requested_by FROM reprise.operations`))
	})
}
