package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

func grouping(promise promise) {
	// failing ends a run of a handler of its own as FAILED, with the message.
	failing := func(db db, id, handler, message string) store.Run {
		db.t.Helper()
		db.publish(event(id))
		lease := db.claimOne("a", handler)
		db.end(queue.Outcome{Lease: lease, Status: store.Failed, Failure: store.NewFailure(handler, store.KindError, message)})
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

	promise("the largest group is the first, however many there are", func(t *testing.T, db db) {
		db.subscribe("mail", "stock")
		const few = 1100 // groups of one run, whose fingerprints come first
		db.failures(few, `'mail'`, `substr('0000000000000000' || n, -16)`)
		db.failures(30, `'mail'`, `'ffffffffffffffff'`)
		db.failures(20, `'stock'`, `'fffffffffffffffe'`)
		for range 2 {
			g, err := db.Grouping(ctx, store.Filter{Limit: 3})
			require.NoError(t, err)
			require.True(t, g.More)
			require.Zero(t, g.Among)
			require.False(t, g.Counting)
			require.Equal(t, []string{"ffffffffffffffff 30", "fffffffffffffffe 20", fmt.Sprintf("%016d 1", few)}, sizes(g.Groups))
			g, err = db.Grouping(ctx, store.Filter{Handler: "stock", Kind: store.KindError})
			require.NoError(t, err)
			require.False(t, g.More)
			require.Equal(t, []string{"fffffffffffffffe 20"}, sizes(g.Groups))
			g, err = db.Grouping(ctx, store.Filter{Group: "ffffffffffffffff"})
			require.NoError(t, err)
			require.Equal(t, []string{"ffffffffffffffff 30"}, sizes(g.Groups))
			db.countFailures()
		}
	})

	promise("discarded and replayed runs keep no group its place", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.failures(30, `'mail'`, `'0000000000000000'`)
		db.failures(2, `'mail'`, `'1111111111111111'`)
		db.operate(store.Operation{Kind: store.Discarding, RequestedBy: "operator", Selection: store.Filter{Group: "0000000000000000"}})
		groups, err := db.Groups(ctx, store.Filter{Limit: 1})
		require.NoError(t, err)
		require.Equal(t, []string{"1111111111111111 2"}, sizes(groups))
		db.countFailures()
		groups, err = db.Groups(ctx, store.Filter{})
		require.NoError(t, err)
		require.Equal(t, []string{"1111111111111111 2"}, sizes(groups))
	})

	promise("groups are exact whatever becomes of the runs, and whoever counts when", func(t *testing.T, db db) {
		db.subscribe("mail", "stock")
		db.register("a", "b")
		counted := func(count bool) {
			t.Helper()
			if count {
				db.countFailures()
			}
			require.Equal(t, db.failedBySize(), db.groupsBySize())
		}
		for _, count := range []bool{false, true} {
			id := func(name string) string { return fmt.Sprint(name, count) }
			for i := range 6 {
				failing(db, id(fmt.Sprint("e", i)), "mail", []string{"once", "twice"}[i%2])
			}
			counted(count)
			again := db.operate(replay(store.Filter{Status: store.Failed, Limit: 0}))
			counted(count)
			_, err := db.Cancel(ctx, again.ID, maria)
			require.NoError(t, err)
			counted(count)
			discarded := db.operate(store.Operation{Kind: store.Discarding, RequestedBy: "operator", Selection: store.Filter{EventID: id("e0")}})
			counted(count)
			_, undone, err := db.Undo(ctx, discarded.ID, maria)
			require.NoError(t, err)
			require.EqualValues(t, 1, undone.Runs)
			counted(count)
			_, _, err = db.Edit(ctx, db.only(store.Filter{EventID: id("e1"), Handler: "mail"}).ID, store.Correction{Payload: []byte(`{}`)}, "operator", "")
			require.NoError(t, err)
			counted(count)
			db.fail(id("without a fingerprint"), "mail")
			counted(count)
			foreign := event(id("foreign"))
			foreign.Source = "kafka"
			lease, err := db.record(foreign, "stock", "a", false)
			require.NoError(t, err)
			db.end(queue.Outcome{Lease: lease, Status: store.Failed, Failure: store.NewFailure("stock", store.KindPanic, "nil map")})
			counted(count)
			_, err = db.record(foreign, "stock", "b", true) // delivered again
			require.NoError(t, err)
			counted(count)
			db.silence("b")
			_, err = db.recover()
			require.NoError(t, err)
			db.register("a", "b")
			counted(count)
			_, err = db.Prune(ctx, store.Prune{Before: time.Now().Add(time.Hour), Failed: true, By: maria}, nil)
			require.NoError(t, err)
			counted(count)
		}
	})

	promise("failures are counted exactly while many end them, count them and have them counted anew", func(t *testing.T, db db) {
		db.subscribe("mail")
		const each, at = 30, 4
		for i := range at {
			for j := range each {
				db.publish(event(fmt.Sprintf("%d-%d", i, j)))
			}
			db.register(fmt.Sprint("worker ", i))
		}
		db.failures(300, `'mail'`, `'0123456789abcdef'`)
		var ending, counting errgroup.Group
		over := make(chan struct{})
		for i := range at {
			instance := fmt.Sprint("worker ", i)
			ending.Go(func() error {
				for claims := int64(0); ; claims++ {
					claimed, err := db.Claim(ctx, queue.Claimant{Instance: instance, Claims: claims}, []queue.Want{{Topic: topic, Handler: "mail", N: 7}})
					if err != nil || len(claimed) == 0 {
						return err
					}
					var ends []queue.Outcome
					for _, c := range claimed {
						message := []string{"one", "two", "three"}[c.Run.ID%3]
						ends = append(ends, queue.Outcome{Lease: queue.LeaseOf(c.Run), Status: store.Failed, Failure: store.NewFailure("mail", store.KindError, message)})
					}
					if _, err := db.End(ctx, ends); err != nil {
						return err
					}
				}
			})
			counting.Go(func() error {
				for n := 0; ; n++ {
					select {
					case <-over:
						return nil
					default:
					}
					if i == 0 && n%5 == 4 {
						if err := db.Recount(ctx); err != nil {
							return err
						}
					}
					if _, err := db.CountFailures(ctx); err != nil {
						return err
					}
				}
			})
		}
		require.NoError(t, ending.Wait())
		close(over)
		require.NoError(t, counting.Wait())
		db.countFailures()
		require.Equal(t, db.failedBySize(), db.groupsBySize())
		require.Len(t, db.groupsBySize(), 4)
	})

	promise("a preview counts the parts that it does not list", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.failures(1100, `'mail'`, `substr('0000000000000000' || n, -16)`)
		db.failures(30, `'mail'`, `'ffffffffffffffff'`)
		p, err := db.Preview(ctx, replay(store.Filter{Handler: "mail"}))
		require.NoError(t, err)
		require.Equal(t, store.Count{N: 1130}, p.Total)
		require.EqualValues(t, 30, p.Parts[0].Runs)
		require.Len(t, p.Parts, 1000)
		require.EqualValues(t, 101, p.More)
		require.EqualValues(t, 1130, p.Gone)
	})

	promise("failures of before are counted a batch at a time, and the answer says that they are", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.failures(10_010, `'mail'`, `'0123456789abcdef'`)
		require.NoError(t, db.Recount(ctx))
		g, err := db.Grouping(ctx, store.Filter{})
		require.NoError(t, err)
		require.True(t, g.Counting)
		require.Empty(t, g.Groups)
		found, err := db.Survey(ctx)
		require.NoError(t, err)
		require.True(t, found.Uncounted)

		more, err := db.CountFailures(ctx)
		require.NoError(t, err)
		require.True(t, more)
		first := db.runs(store.Filter{Status: store.Failed, Limit: 1})[0]
		last := db.only(store.Filter{IDs: []int64{first.ID - 10_009}})
		db.discard(first.ID)
		db.discard(last.ID)
		g, err = db.Grouping(ctx, store.Filter{})
		require.NoError(t, err)
		require.True(t, g.Counting)
		require.Equal(t, store.Count{N: 9_999, More: true}, g.Groups[0].Runs)

		db.countFailures()
		g, err = db.Grouping(ctx, store.Filter{})
		require.NoError(t, err)
		require.False(t, g.Counting)
		require.Equal(t, store.Count{N: 10_008}, g.Groups[0].Runs)
		found, err = db.Survey(ctx)
		require.NoError(t, err)
		require.False(t, found.Uncounted)
	})

	promise("what is not counted in advance is looked for among the newest failures, and the answer says among how many", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		failing(db, "old", "mail", "an old one")
		db.failures(10_000, `'mail'`, `'0123456789abcdef'`)
		g, err := db.Grouping(ctx, store.Filter{Text: "an old one"})
		require.NoError(t, err)
		require.Empty(t, g.Groups)
		require.EqualValues(t, 10_000, g.Among)
		g, err = db.Grouping(ctx, store.Filter{Topic: topic})
		require.NoError(t, err)
		require.Equal(t, store.Count{N: 10_000, More: true}, g.Groups[0].Runs)
		g, err = db.Grouping(ctx, store.Filter{EventID: "old", Text: "an old one"})
		require.NoError(t, err)
		require.Len(t, g.Groups, 1)
		require.Zero(t, g.Among)
	})

	promise("what somebody has changed by hand is found, and counted anew", func(t *testing.T, db db) {
		db.subscribe("mail")
		db.register("a")
		failing(db, "1", "mail", "broken")
		wrong, err := db.Miscounted(ctx)
		require.NoError(t, err)
		require.Equal(t, store.Miscount{Counted: 1, Failed: store.Count{N: 1}}, wrong)
		require.False(t, wrong.Is())
		db.countFailures()
		db.exec(`UPDATE reprise.failure_groups SET runs = 7`)
		wrong, err = db.Miscounted(ctx)
		require.NoError(t, err)
		require.Equal(t, store.Miscount{Counted: 7, Failed: store.Count{N: 1}}, wrong)
		require.True(t, wrong.Is())
		require.NoError(t, db.Recount(ctx))
		db.countFailures()
		wrong, err = db.Miscounted(ctx)
		require.NoError(t, err)
		require.False(t, wrong.Is())
	})
}

// failures makes n runs FAILED, of the handler and the fingerprint that the
// expressions say, in which n is the number of the run.
func (d db) failures(n int, handler, fingerprint string) {
	d.t.Helper()
	numbers := `WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $1)`
	of := `fill-` + fingerprint + ` `
	d.exec(numbers+`
		INSERT INTO reprise.handler_runs (event_id, topic, handler, due_at)
		SELECT $2 || n, 'orders', `+handler+`, $3 FROM numbers`, n, of, at(time.Now()))
	d.exec(`
		UPDATE reprise.handler_runs
		SET status = 'FAILED', attempt = 1, due_at = NULL, finished_at = $3, failed_at = $3, error_kind = 'error', error = 'wrong',
		    fingerprint = (SELECT `+d.text(fingerprint)+` FROM (SELECT CAST(substr(event_id, $2) AS bigint) AS n) x)
		WHERE substr(event_id, 1, $2 - 1) = $1`, of, len(of)+1, at(time.Now()))
}

// text is an expression of SQLite's in the database's words.
func (d db) text(expression string) string {
	if d.kind == dialect.Postgres {
		return strings.NewReplacer(`substr('0000000000000000' || n, -16)`, `lpad(n::text, 16, '0')`).Replace(expression)
	}
	return expression
}

// countFailures counts all that is to count.
func (d db) countFailures() {
	d.t.Helper()
	for more := true; more; {
		var err error
		more, err = d.CountFailures(ctx)
		require.NoError(d.t, err)
	}
}

// sizes are fingerprints with their numbers of runs.
func sizes(groups []store.Group) (all []string) {
	for _, g := range groups {
		all = append(all, fmt.Sprintf("%s %v", g.Fingerprint, g.Runs))
	}
	return all
}

// groupsBySize is what Groups says, and failedBySize what the runs say.
func (d db) groupsBySize() []string {
	d.t.Helper()
	all := []string{}
	groups, err := d.Groups(ctx, store.Filter{Limit: store.MaxLimit})
	require.NoError(d.t, err)
	for _, g := range groups {
		all = append(all, fmt.Sprintf("%v %s %s %s", g.Runs, g.Fingerprint, g.Handler, g.Kind))
	}
	slices.Sort(all)
	return all
}

func (d db) failedBySize() []string {
	d.t.Helper()
	all := d.column(`
		SELECT count(*) || ' ' || coalesce(fingerprint, '') || ' ' || handler || ' ' || error_kind FROM reprise.handler_runs
		WHERE failed_at IS NOT NULL GROUP BY fingerprint, handler, error_kind`)
	slices.Sort(all)
	return all
}
