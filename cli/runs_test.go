package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/store"
)

func TestRunsAreListedNewestFirst(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.reprise("runs", "list").fails(exitNothing, "no run is selected")
		db.subscribe("mail")
		ids := db.failed("mail", 3)
		done := db.ended("mail", 1, store.Success)[0]

		r := db.reprise("runs", "list").ok()
		lines := strings.Split(strings.TrimSpace(r.out), "\n")
		require.Len(t, lines, 5)
		require.Equal(t, []string{"RUN", "STATUS", "HANDLER", "TOPIC", "EVENT", "KEY", "ATTEMPT", "AGE", "ERROR"}, strings.Fields(lines[0]))
		require.Contains(t, lines[1], fmt.Sprint(done))
		require.Contains(t, lines[4], "FAILED")
		require.Contains(t, lines[4], "the mail server is down", "in one line")
		require.Empty(t, r.errs)
		require.NotContains(t, r.out, "\x1b", "no colours but on a terminal")

		r = db.reprise("runs", "list", "--limit", "2").ok()
		require.Contains(t, r.errs, fmt.Sprintf("--before %d", ids[2]))
		var page wire.Runs
		db.reprise("runs", "list", "--limit", "2", "--before", fmt.Sprint(ids[2]), "-o", "json").ok().json(&page)
		require.Equal(t, []int64{ids[1], ids[0]}, []int64{page.Runs[0].ID, page.Runs[1].ID})
		require.Equal(t, ids[0], *page.Next)
		db.reprise("runs", "list", "--before", fmt.Sprint(ids[0]), "-o", "json").fails(exitNothing, "").json(&page)
		require.Empty(t, page.Runs)
		require.NotNil(t, page.Runs)
		require.Nil(t, page.Next)
	})
}

func TestAnInterruptedCommandSaysSo(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		ctx, interrupt := context.WithCancel(t.Context())
		interrupt()
		for _, command := range []string{"runs list", "runs groups", "runs replay --all --yes", "events list", "doctor", "prune --older-than 1d --yes"} {
			r := db.repriseWith(ctx, nil, strings.NewReader(""), strings.Fields(command)...)
			r.fails(exitInterrupted, "reprise: interrupted")
		}
	})
}

func TestTheSelection(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail", "trial")
		mail := db.failed("mail", 3)
		trial := db.failed("trial", 1)
		db.ended("trial", 1, store.Success)
		run, err := db.Run(t.Context(), mail[1])
		require.NoError(t, err)

		for _, c := range []struct {
			flags string
			want  int
		}{
			{"", 5}, {"--status failed", 4}, {"--all", 4}, {"--handler mail", 3}, {"--handler nobody", 0}, {"--topic " + topic, 5},
			{"--event mail-failed-1", 1}, {"--key user-1", 1}, {"--kind panic", 4}, {"--text SERVER", 4}, {"--group " + run.Fingerprint, 3},
			{"--replay 4711", 0}, {"--since 1h", 5}, {"--until 1h", 0}, {"--payload user.id=2", 1}, {"--payload user.id!=2 --payload email=ada@example.com --status FAILED", 3},
			{fmt.Sprint(trial[0], " ", mail[0]), 2}, {fmt.Sprint(trial[0], " --handler mail"), 0},
		} {
			r := db.reprise(append([]string{"runs", "count"}, strings.Fields(c.flags)...)...).ok()
			require.Equal(t, fmt.Sprintf("%d\n", c.want), r.out, c.flags)
		}
		for flags, why := range map[string]string{
			"--status broken": "want one of", "--group x": "want the 16 hexadecimal digits", "--since never": "want 2026-07-01",
			"--since 1h --until 2h": "is not before until", "--payload user": "want PATH=VALUE", "zero": `run "zero": want the number of a run`, "-- -1": "want the number of a run",
			"--all --handler mail": "leave one of them out", "--nonsense": "unknown flag", "--replay -1": "want the id of a replay", "--key \x01": "control characters",
		} {
			for _, command := range []string{"list", "count", "groups", "replay", "discard", "watch"} {
				args := append([]string{"runs", command}, strings.Fields(flags)...)
				db.reprise(args...).fails(exitUsage, why)
			}
		}
		db.reprise("runs", "list", "--limit", "0").fails(exitUsage, "--limit 0")
		db.reprise("runs", "list", "-o", "yaml").fails(exitUsage, "want table or json")
		db.reprise("runs", "frobnicate").fails(exitUsage, `unknown command "frobnicate"`)
		db.reprise("frobnicate").fails(exitUsage, `unknown command "frobnicate"`)
	})
}

func TestWhatARunWaitsFor(t *testing.T) {
	t.Parallel()
	scheduled := time.Date(2026, 7, 1, 14, 5, 2, 0, time.Local)
	require.Equal(t, "PENDING (scheduled 14:05:02)", statusOf(store.Run{Status: store.Pending, DueAt: scheduled}, scheduled.Add(-time.Hour)).text)
	require.Equal(t, "PENDING (scheduled 2026-07-01 14:05:02)", statusOf(store.Run{Status: store.Pending, DueAt: scheduled}, scheduled.AddDate(-1, 0, 0)).text)
}

func TestShowHasAllThatIsOnRecord(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		id := fmt.Sprint(db.failed("mail", 1)[0])
		db.reprise("runs", "replay", id, "--yes", "--by", "maria", "--reason", "mail server is back").ok()

		r := db.reprise("runs", "show", id).ok()
		for _, want := range []string{"PENDING (due)", "mail-failed-0", "user-0", "FAILED ATTEMPTS", "panic", "the mail server is down", "OPERATIONS", "maria", "mail server is back"} {
			require.Contains(t, r.out, want)
		}
		require.NotContains(t, r.out, "ada@example.com", "the payload only on request")
		require.NotContains(t, r.out, "goroutine", "the stack only on request")
		require.NotContains(t, db.reprise("runs", "show", id, "-o", "json").ok().out, "ada@example.com")

		r = db.reprise("runs", "show", id, "--payload", "--stack").ok()
		require.Contains(t, r.out, "PAYLOAD\n{\n  \"user\": {\n    \"id\": 0\n  },")
		require.Contains(t, r.out, "main.send()")

		db.exec(`DELETE FROM reprise.events`)
		require.Contains(t, db.reprise("runs", "show", id, "--payload").ok().out, "is no longer in the database")
		db.reprise("runs", "show", "4711").fails(exitNothing, "run 4711: not found")
		db.reprise("runs", "show").fails(exitUsage, "requires at least 1 arg")
	})
}

func TestFailureGroups(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.reprise("runs", "groups").fails(exitNothing, "nothing failed")
		db.failed("mail", 3)
		newest := db.failed("trial", 1)[0]
		r := db.reprise("runs", "groups").ok()
		lines := strings.Split(r.out, "\n")
		require.Equal(t, []string{"GROUP", "RUNS", "HANDLER", "KIND", "FIRST", "LAST", "SAMPLE", "ERROR"}, strings.Fields(lines[0]))
		require.Equal(t, []string{"3", "mail", "panic"}, strings.Fields(lines[1])[1:4])
		require.Equal(t, fmt.Sprint(newest), strings.Fields(lines[2])[6])

		var groups wire.Groups
		db.reprise("runs", "groups", "--handler", "mail", "-o", "json").ok().json(&groups)
		require.Len(t, groups.Groups, 1)
		require.Equal(t, "3\n", db.reprise("runs", "count", "--group", groups.Groups[0].Group).ok().out)
		db.reprise("runs", "groups", "--status", "SUCCESS").fails(exitFailed, "the only ones that make groups")
		require.Contains(t, db.reprise("runs", "groups", "--limit", "1").ok().errs, "There are more groups")

		// What is not counted yet is said, also where nothing is found.
		db.exec(`UPDATE reprise.failures_counted SET run_id = 0, up_to = 1`)
		db.exec(`DELETE FROM reprise.failure_groups`)
		db.reprise("runs", "groups", "--handler", "trial").fails(exitNothing, "nothing is found. FAILED runs of before an upgrade, or a recount, are still being counted")
		r = db.reprise("runs", "groups", "--recount").ok()
		require.NotContains(t, r.errs, "counted")
		require.Equal(t, lines[1:3], strings.Split(r.out, "\n")[1:3])
	})
}

func TestTheBoundsOfFailureGroups(t *testing.T) {
	require.Empty(t, groupBounds(store.Grouping{}))
	require.Equal(t, []string{"Only the newest 10,000 FAILED runs were looked at: older ones may be selected, too. Every one counts where nothing but --handler, --kind and --group is said."},
		groupBounds(store.Grouping{Among: 10_000}))
}

func TestDoctorComparesTheFailureGroupsWithTheRuns(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.failed("mail", 3)
		require.Contains(t, db.reprise("doctor").out, "they have the runs that FAILED")
		db.reprise("runs", "groups", "--recount").ok()
		db.exec(`UPDATE reprise.failure_groups SET runs = 7`)
		r := db.reprise("doctor")
		require.Contains(t, r.out, "the failure groups have 7 runs, and 3 runs FAILED")
		require.Contains(t, r.out, "reprise runs groups --recount")
		db.reprise("runs", "groups", "--recount").ok()
		require.Contains(t, db.reprise("doctor").out, "they have the runs that FAILED")
	})
}

// However many operations came later.
func TestDoctorFindsAnOldOperationThatIsPaused(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		db.failed("mail", 1)
		db.reprise("runs", "replay", "--all", "--yes", "--reason", "test", "--by", "maria").ok()
		db.reprise("replays", "pause", "1").ok()
		for range 10 {
			db.exec(`INSERT INTO reprise.operations (kind, requested_by, selection, complete) SELECT 'publish', 'somebody', '{}', true FROM ` + hundred)
		}
		db.exec(`INSERT INTO reprise.operations (kind, requested_by, selection, complete) VALUES ('publish', 'somebody', '{}', true)`)
		require.Contains(t, db.reprise("doctor").out, "paused: 1 (replay by maria")
	})
}

// hundred is a relation of a hundred rows.
var hundred = func() string {
	ten := `(` + strings.TrimPrefix(strings.Repeat(` UNION ALL SELECT 1 AS n`, 10), ` UNION ALL `) + `)`
	return ten + ` a, ` + ten + ` b`
}()

func TestExport(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		id := fmt.Sprint(db.failed("mail", 1)[0])
		r := db.reprise("runs", "export", id).ok()
		require.Contains(t, r.out, `"reprise_export"`)
		file := t.TempDir() + "/run.json"
		db.reprise("runs", "export", id, "-f", file).ok()
		require.FileExists(t, file)
		db.reprise("runs", "export", id, "-f", file).fails(exitFailed, "file exists")
		db.reprise("runs", "export", "4711").fails(exitNothing, "not found")
	})
}

func TestWatchSaysThatItWatchesOnlyTheNewest(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.manyFailed("mail", 20_001)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		said, stderr := io.Pipe()
		code := make(chan int, 1)
		go func() {
			code <- exec(ctx, Config{}, strings.NewReader(""), io.Discard, stderr, []string{"runs", "watch"},
				func(name string) string { return map[string]string{"REPRISE_DATABASE_URL": db.url}[name] })
			stderr.Close()
		}()
		text := make([]byte, 4096)
		n, err := said.Read(text)
		require.NoError(t, err)
		require.Contains(t, string(text[:n]), "only the newest of them are watched")
		stop()
		_, _ = io.Copy(io.Discard, said)
		require.Equal(t, exitInterrupted, <-code)
	})
}

func TestWatchPrintsWhatFailsFromNowOn(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		old := db.failed("mail", 1)[0]
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		out, stdout := io.Pipe()
		said, stderr := io.Pipe()
		code := make(chan int, 1)
		go func() {
			code <- exec(ctx, Config{}, strings.NewReader(""), stdout, stderr, []string{"runs", "watch", "--interval", "100ms", "-o", "json"},
				func(name string) string { return map[string]string{"REPRISE_DATABASE_URL": db.url}[name] })
			stdout.Close()
			stderr.Close()
		}()
		line := make([]byte, 4096)
		n, err := said.Read(line)
		require.NoError(t, err)
		require.Contains(t, string(line[:n]), "Watching --status FAILED")
		go func() { _, _ = io.Copy(io.Discard, said) }()

		fresh := db.failed("trial", 1)[0]
		n, err = out.Read(line)
		require.NoError(t, err)
		require.Contains(t, string(line[:n]), fmt.Sprintf(`"id":%d,"status":"FAILED"`, fresh))
		require.NotContains(t, string(line[:n]), fmt.Sprintf(`"id":%d,`, old))
		stop()
		require.Equal(t, exitInterrupted, <-code)
	})
}
