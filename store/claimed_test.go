package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// A handler is told when its run started, also if a trigger of the application keeps the
// first run of the claim as it is.
func TestEveryClaimedRunSaysWhenItStarted(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := migrated(t, testdb.Open(t, testdb.Postgres(t)), "")
	q := queue.Of(st)
	require.NoError(t, q.Register(ctx, store.Instance{ID: "a"}))
	require.NoError(t, q.Subscribe(ctx, store.Subscription{Topic: "orders", Handler: "mail"}, ""))
	for _, id := range []string{"1", "2", "3"} {
		_, err := q.Insert(ctx, st.DB(), []store.Event{{ID: id, Topic: "orders", Source: store.SourcePublish}}, queue.LeaseOnInsert{})
		require.NoError(t, err)
	}
	st.DB().MustExec(`
		CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
		CREATE TRIGGER keep BEFORE UPDATE ON reprise.handler_runs FOR EACH ROW WHEN (NEW.event_id = '1') EXECUTE FUNCTION keep()`)
	claimed, err := q.Claim(ctx, queue.Claimant{Instance: "a"}, []queue.Want{{Topic: "orders", Handler: "mail", N: 3}})
	require.NoError(t, err)
	require.Len(t, claimed, 2)
	for _, c := range claimed {
		require.False(t, c.Run.StartedAt.IsZero())
		require.Equal(t, claimed[0].Run.StartedAt, c.Run.StartedAt)
		require.False(t, c.Run.PublishedAt.IsZero())
		require.Equal(t, c.Run.PublishedAt, c.Event.PublishedAt)
	}
}
