package cli

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testdb"
)

// A role that may look, by the grants of docs/postgres.md, may look at
// everything, and is told what it may not do.
func TestARoleThatMayOnlyLook(t *testing.T) {
	t.Parallel()
	var d *db
	roles := testdb.NewRoles(t, "../docs/postgres.md", func(url string) { d = migrated(t, url) })
	d.subscribe("mail")
	failed := d.failed("mail", 2)
	run := strconv.FormatInt(failed[0], 10)
	replay := d.reprise("runs", "replay", strconv.FormatInt(failed[1], 10), "--reason", "test", "--yes", "-o", "json").ok().operation()

	d.url = roles.Support
	for _, command := range [][]string{
		{"runs", "list"},
		{"runs", "count"},
		{"runs", "groups"},
		{"runs", "show", run},
		{"runs", "export", run},
		{"runs", "replay", "--handler", "mail", "--even-successful", "--dry-run"},
		{"runs", "discard", "--handler", "mail", "--dry-run"},
		{"replays", "list"},
		{"replays", "show", strconv.FormatInt(replay.ID, 10)},
		{"events", "list"},
		{"events", "show", "mail-failed-0"},
		{"handlers", "list"},
		{"topics", "list"},
		{"outbox", "list"},
		{"outbox", "status"},
		{"doctor"},
		{"backfill", "mail", "--dry-run"},
		{"migrate", "status"},
		{"version"},
	} {
		r := d.reprise(command...)
		require.NotEqual(t, exitFailed, r.code, "%s: %s", command, r.errs)
		require.NotEqual(t, exitUsage, r.code, "%s: %s", command, r.errs)
		require.NotContains(t, r.out+r.errs, "42501", command)
	}
	for _, command := range [][]string{
		{"runs", "replay", run, "--even-successful", "--reason", "test", "--yes"},
		{"runs", "discard", run, "--reason", "test", "--yes"},
		{"replays", "cancel", strconv.FormatInt(replay.ID, 10)},
		{"handlers", "remove", "mail", "--yes"},
		{"prune", "--older-than", "1d", "--yes"},
		{"publish", topic, "{}"},
	} {
		r := d.reprise(command...)
		r.fails(exitFailed, "the role of the database URL may not do this")
		require.Contains(t, r.errs, "docs/postgres.md")
	}
}
