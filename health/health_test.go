package health_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/health"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// Most findings are tested through the command line's doctor, which prints them.

func TestExamineFindsWhatIsWrong(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		db := testdb.Open(t, url)
		require.NoError(t, migrations.Up(t.Context(), db, ""))
		st, err := store.New(t.Context(), db, "")
		require.NoError(t, err)
		q := queue.Of(st)
		examine := func(limits health.Limits) map[string]health.Finding {
			findings, err := health.Examine(t.Context(), st, limits)
			require.NoError(t, err)
			byCheck := map[string]health.Finding{}
			for _, f := range findings {
				require.NotEmpty(t, f.Text)
				require.Equal(t, f.Severity != health.OK, f.Advice != "", "%+v", f)
				byCheck[f.Check] = f
			}
			return byCheck
		}

		require.Equal(t, health.Critical, examine(health.Limits{})["instances"].Severity, "nothing runs")
		require.NoError(t, q.Register(t.Context(), store.Instance{ID: "a", Host: "host", DeadAfter: time.Hour}))
		for check, f := range examine(health.Limits{}) {
			require.Equal(t, health.OK, f.Severity, check)
		}

		require.NoError(t, q.Subscribe(t.Context(), store.Subscription{Topic: "orders", Handler: "mail"}, ""))
		_, err = q.Insert(t.Context(), st.DB(), []store.Event{{ID: "1", Topic: "orders", Payload: []byte(`{}`)}}, queue.LeaseOnInsert{})
		require.NoError(t, err)
		found := examine(health.Limits{})
		require.Equal(t, health.Warning, found["handlers"].Severity, "no instance serves it")
		require.Equal(t, health.OK, found["due"].Severity, "not for long")
		require.Eventually(t, func() bool {
			return examine(health.Limits{DueWarning: time.Nanosecond, DueCritical: time.Millisecond})["due"].Severity == health.Critical
		}, time.Minute, 10*time.Millisecond)
	})
}

func TestWorstIsTheWorst(t *testing.T) {
	t.Parallel()
	require.Equal(t, health.OK, health.Worst(nil))
	require.Equal(t, health.Warning, health.Worst([]health.Finding{{Severity: health.OK}, {Severity: health.Warning}, {Severity: health.OK}}))
	require.Equal(t, health.Critical, health.Worst([]health.Finding{{Severity: health.Critical}, {Severity: health.Warning}}))
}
