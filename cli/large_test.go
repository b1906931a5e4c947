package cli

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/store"
)

// What is large on record: a payload, metadata, an error with its stack.
const large = 1 << 20

func (d *db) insertLarge(n int) (ids []string) {
	d.t.Helper()
	payload := `"` + strings.Repeat("é", large/2) + `"`
	for i := range n {
		id := fmt.Sprint("large-", i)
		ids = append(ids, id)
		for _, into := range []string{"events (source, id,", "outbox (error, event_id,"} {
			d.exec(`INSERT INTO reprise.`+into+` topic, payload, metadata) VALUES ('kafka', $1, $2, $3, $4)`, id, topic, payload, `{"large": "`+strings.Repeat("m", large)+`"}`)
		}
	}
	return ids
}

func (d *db) failedWithStacks(attempts int) (run int64) {
	d.t.Helper()
	d.exec(`INSERT INTO reprise.handler_runs (event_id, topic, handler, status, finished_at, failed_at, error_kind) VALUES ('large-0', $1, 'mail', 'FAILED', $2, $2, 'panic')`,
		topic, "2026-01-01T00:00:00.000Z")
	runs, err := d.Runs(d.t.Context(), store.Filter{EventID: "large-0"})
	require.NoError(d.t, err)
	for i := range attempts {
		d.exec(`INSERT INTO reprise.run_attempts (run_id, attempt, cycle, kind, message, stack, started_at) VALUES ($1, $2, 0, 'panic', 'nil map', $3, $4)`,
			runs[0].ID, i+1, strings.Repeat("s", 32<<10), "2026-01-01T00:00:00.000Z")
	}
	return runs[0].ID
}

// Payloads, metadata and stacks come from the database where they are shown, and no
// more of them than is shown.
func TestWhatIsNotShownIsNotRead(t *testing.T) {
	t.Parallel()
	link := testdb.NewLink(t, testdb.Postgres(t))
	d := migrated(t, link.URL)
	d.subscribe("mail")
	d.insertLarge(20)
	run := fmt.Sprint(d.failedWithStacks(300))
	for _, c := range []struct {
		command string
		most    int64 // bytes that the database may send
	}{
		{"events list", 100 << 10},
		{"events list -o json", 100 << 10},
		{"events show large-0", 100 << 10},
		{"events show large-0 --payload", shownPayload + 100<<10},
		{"events show large-0 --payload -o json", shownPayload + 100<<10},
		{"outbox list", 100 << 10},
		{"outbox list -o json", 100 << 10},
		{"outbox status", 100 << 10},
		{"outbox show 1", 100 << 10},
		{"outbox show 1 --payload", shownPayload + 100<<10},
		{"outbox drop 1 --dry-run", 100 << 10},
		{"runs list", 100 << 10},
		{"runs count --payload a=b", 100 << 10},
		{"runs groups", 100 << 10},
		{"runs show " + run, 150 << 10},
		{"runs show " + run + " --payload", shownPayload + 150<<10},
		{"runs show " + run + " --stack", shownAttempts*40<<10 + 150<<10},
		{"runs replay --all --dry-run", 100 << 10},
		{"doctor", 100 << 10},
	} {
		before := link.Received()
		r := d.reprise(strings.Fields(c.command)...)
		require.NotContains(t, []int{exitFailed, exitUsage}, r.code, "%s: %s", c.command, r.errs)
		require.Less(t, link.Received()-before, c.most, c.command)
	}
	before := link.Received()
	r := d.reprise("events", "show", "large-0", "--full").ok()
	require.Greater(t, link.Received()-before, int64(large))
	require.Contains(t, r.out, strings.Repeat("é", large/2))
}

func TestALargePayloadIsShownInPartAndOnRequestWhole(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		db.insertLarge(1)
		run := fmt.Sprint(db.failedWithStacks(shownAttempts + 7))
		for _, command := range []string{"events show large-0", "outbox show 1", "runs show " + run} {
			show := func(flags ...string) result { return db.reprise(append(strings.Fields(command), flags...)...).ok() }
			r := show()
			require.NotContains(t, r.out, "é")
			require.Contains(t, r.out, "1,048,", "how many bytes the metadata have")
			r = show("--payload")
			require.Contains(t, r.out, "é\n… 262,143 of 1,048,578 bytes; --full shows all")
			require.Equal(t, (shownPayload-1)/2, strings.Count(r.out, "é"))
			require.Equal(t, large/2, strings.Count(show("--full").out, "é"))

			var data any
			r = show("--payload", "-o", "json")
			r.json(&data)
			require.Contains(t, r.out, `"payload_bytes": 1048578`)
			start := base64.StdEncoding.EncodeToString([]byte(`"` + strings.Repeat("é", 100)))
			require.Contains(t, r.out, `"payload_start": "`+start[:100])
			require.NotContains(t, r.out, `"payload": `)
			require.Contains(t, show("--full", "-o", "json").out, `"payload": "é`)
		}
		r := db.reprise("runs", "show", run).ok()
		require.Contains(t, r.out, "… 7 attempts before these; --full shows all")
		require.Equal(t, shownAttempts+7, strings.Count(db.reprise("runs", "show", run, "--full").ok().out, "nil map"))
		require.Contains(t, db.reprise("events", "list").ok().out, "1048578")
	})
}

// Two topics may have an event of one id and one time: no page passes over one.
func TestEventsOfOneIDAndTimeAreOnePageAfterTheOther(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		for _, topic := range []string{"a", "b/b", "c"} {
			db.exec(`INSERT INTO reprise.events (id, topic, payload, published_at) VALUES ('1', $1, '{}', '2026-01-01T00:00:00.000Z')`, topic)
		}
		var topics []string
		for next := []string{}; next != nil; {
			var page wire.Events
			db.reprise(append([]string{"events", "list", "--limit", "1", "-o", "json"}, next...)...).json(&page)
			next = nil
			for _, e := range page.Events {
				topics = append(topics, e.Topic)
			}
			if page.Next != nil {
				next = []string{"--before", *page.Next}
			}
		}
		require.Equal(t, []string{"c", "b/b", "a"}, topics)
	})
}
