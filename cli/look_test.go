package cli

import (
	"database/sql"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/health"
	"github.com/reprise-bus/reprise/store"
)

// files are the bytes of a SQLite file and of what is beside it.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		found[e.Name()] = string(text)
	}
	return found
}

// lookers are commands that only look.
var lookers = []string{
	"runs list", "runs count", "runs groups", "runs show 1", "runs export 1", "runs replay --all --dry-run", "runs discard --all --dry-run",
	"events list", "events show mail-failed-0", "handlers list", "topics list", "replays list", "outbox list", "outbox status", "outbox release --all --dry-run",
	"backfill trial --dry-run", "prune --older-than 1h --dry-run", "doctor", "migrate status",
}

// changers are commands that change the record.
var changers = []string{
	"runs replay 1 --yes", "runs discard 2 --yes --reason test", "runs edit 3 --metadata a=b --yes", "publish user.signed_up {}",
	"handlers remove trial --yes", "outbox release 1 --yes", "prune --older-than 1h --failed --yes",
}

// sqliteFile is a closed SQLite file with Reprise's tables, in a directory of its
// own, and in that journal mode.
func sqliteFile(t *testing.T, journal string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "app.db")
	address := "sqlite:" + file
	t.Run("filled", func(t *testing.T) { // whose pool is closed then
		d := migrated(t, address)
		d.subscribe("mail", "trial")
		d.failed("mail", 3)
		d.outbox("orders", 1, true)
		d.exec(`PRAGMA journal_mode = ` + journal)
	})
	return file
}

func journalOf(t *testing.T, file string) (mode string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?mode=ro")
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.QueryRow(`PRAGMA journal_mode`).Scan(&mode))
	return mode
}

// A command that looks changes no byte of a file, and leaves none beside it,
// whatever the journal mode, and whoever the file belongs to.
func TestLookingChangesNothing(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"delete", "wal"} {
		t.Run(journal, func(t *testing.T) {
			t.Parallel()
			file := sqliteFile(t, journal)
			before := files(t, filepath.Dir(file))
			require.Len(t, before, 1)
			for _, command := range lookers {
				for _, parameters := range []string{"", "?_pragma=journal_mode(WAL)", "?_pragma=journal_mode(DELETE)", "?mode=ro", "?immutable=1"} {
					r := on(t, "sqlite:"+file+parameters, strings.Fields(command)...)
					require.NotContains(t, []int{exitFailed, exitUsage}, r.code, "%s %s: %s", command, parameters, r.errs)
					require.True(t, maps.Equal(before, files(t, filepath.Dir(file))), "%s %s", command, parameters)
				}
			}
		})
	}
	t.Run("foreign", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "theirs.db")
		db, err := sql.Open("sqlite", file)
		require.NoError(t, err)
		_, err = db.Exec(`CREATE TABLE theirs (a)`)
		require.NoError(t, err)
		require.NoError(t, db.Close())
		before := files(t, filepath.Dir(file))
		for _, command := range append(changers, lookers...) {
			on(t, "sqlite:"+file, strings.Fields(command)...)
			require.True(t, maps.Equal(before, files(t, filepath.Dir(file))), command)
		}
	})
}

// While the application works on the file, what it has written last is seen.
func TestLookingAtAFileInUse(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "app.db")
	d := migrated(t, "sqlite:"+file)
	d.failed("mail", 3)
	require.NotZero(t, len(files(t, filepath.Dir(file))["app.db-wal"]))
	require.Equal(t, "3\n", d.reprise("runs", "count").ok().out)
	d.failed("trial", 2)
	require.Equal(t, "5\n", d.reprise("runs", "count").ok().out)
}

// A file that cannot be written can be looked at, and what would change it says
// why that does not work.
func TestAFileThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"delete", "wal"} {
		t.Run(journal, func(t *testing.T) {
			t.Parallel()
			file := sqliteFile(t, journal)
			dir := filepath.Dir(file)
			require.NoError(t, os.Chmod(file, 0o444))
			require.NoError(t, os.Chmod(dir, 0o555))
			t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
			before := files(t, dir)
			for _, command := range lookers {
				r := on(t, "sqlite:"+file, strings.Fields(command)...)
				require.NotContains(t, []int{exitFailed, exitUsage}, r.code, "%s: %s", command, r.errs)
			}
			for _, command := range changers {
				for _, parameters := range []string{"?mode=ro", "?immutable=1"} {
					on(t, "sqlite:"+file+parameters, strings.Fields(command)...).fails(exitFailed, "the SQLite file cannot be written, and this command changes what is on record")
				}
				if os.Geteuid() != 0 { // who may write everything
					on(t, "sqlite:"+file, strings.Fields(command)...).fails(exitFailed, "cannot be written")
				}
			}
			require.True(t, before["app.db"] == files(t, dir)["app.db"])
		})
	}
}

// What changes the record leaves the journal mode to the application.
func TestChangingKeepsTheJournalMode(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"delete", "wal"} {
		file := sqliteFile(t, journal)
		for _, command := range changers {
			on(t, "sqlite:"+file, strings.Fields(command)...).ok()
			require.Equal(t, journal, journalOf(t, file), command)
		}
	}
}

func TestADryRunOfPruneDeletesNothing(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.ended("mail", 3, store.Success)
		db.failed("mail", 2)
		db.exec(`UPDATE reprise.events SET published_at = $1`, "2026-01-01T00:00:00.000Z")
		db.exec(`UPDATE reprise.handler_runs SET finished_at = $1 WHERE status = 'SUCCESS'`, "2026-01-01T00:00:00.000Z")
		db.exec(`UPDATE reprise.handler_runs SET finished_at = $1, failed_at = $1 WHERE status = 'FAILED'`, "2026-01-01T00:00:00.000Z")
		require.Equal(t, "Would delete 3 events with 3 runs, and 0 messages of the outbox. Nothing was done.\n", db.reprise("prune", "--older-than", "1h", "--dry-run").ok().out)
		require.Contains(t, db.reprise("prune", "--older-than", "1h", "--dry-run", "--failed").ok().out, "Would delete 5 events with 5 runs")
		require.Equal(t, "5\n", db.reprise("runs", "count").ok().out)
		require.Contains(t, db.reprise("prune", "--older-than", "1h", "--yes").ok().out, "Deleted 3 events with 3 runs")
	})
}

// The editor is a program whose path has a space, or a command line of the shell.
func TestAnEditorWithSpaces(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		dir := filepath.Join(t.TempDir(), "my editor's")
		require.NoError(t, os.Mkdir(dir, 0o700))
		program := filepath.Join(dir, "edit it")
		require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\nfor last; do :; done\nprintf '{\"arguments\":\"%s\"}' \"$1\" > \"$last\"\n"), 0o700))
		ids := db.failed("mail", 3)
		for i, editor := range []string{program, fmt.Sprintf(`"%s" --wait`, program), fmt.Sprintf(`LC_ALL=C "%s" 'two words'`, program)} {
			env := map[string]string{"EDITOR": editor, "TMPDIR": t.TempDir()}
			r := db.repriseWith(t.Context(), env, strings.NewReader(""), "runs", "edit", fmt.Sprint(ids[i]), "--yes").ok()
			require.Contains(t, r.errs, []string{"payload.json", `"--wait"`, `"two words"`}[i])
		}
	})
}

// What doctor finds fits a line, however much it is; as JSON it is all there.
func TestDoctorNamesTheFirstFew(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		for i := range 64 {
			db.subscribe(fmt.Sprintf("handler-that-nobody-serves-%02d", i))
		}
		for line := range strings.Lines(db.reprise("doctor").out) {
			require.Less(t, len(line), 400)
		}
		require.Contains(t, db.reprise("doctor").out, "handler-that-nobody-serves-04 on user.signed_up (0 due) and 59 more")
		require.Contains(t, checkOf(t, db.reprise("doctor", "-o", "json"), "handlers").Text, "handler-that-nobody-serves-63 on user.signed_up (0 due)")
	})
}

// The statement that doctor advises is one of this database, in every schema.
func TestDoctorMendsRunsThatContradictThemselves(t *testing.T) {
	eachDB(t, func(t *testing.T, migrated *db) {
		d := inSchema(t, migrated.url, "billing")
		d.subscribe("mail")
		id := d.failed("mail", 1)[0]
		if d.kind() == "sqlite" { // which checks it
			d.run(`PRAGMA ignore_check_constraints = 1`)
		}
		d.run(fmt.Sprintf(`UPDATE reprise.handler_runs SET finished_at = NULL WHERE id = %d`, id))
		doctor := func() health.Finding {
			return checkOf(t, reprise(t.Context(), t, map[string]string{"REPRISE_DATABASE_URL": d.url, "REPRISE_SCHEMA": "billing"}, strings.NewReader(""), "doctor", "-o", "json"), "rows")
		}
		_, mend, found := strings.Cut(doctor().Advice, ":\n")
		require.True(t, found)
		d.run(mend)
		require.Equal(t, health.OK, doctor().Severity)
		require.Equal(t, store.Pending, d.status(id))
	})
}

// What is read as a payload is read up to the limit only.
func TestALargePayloadIsNotRead(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		id := fmt.Sprint(db.failed("mail", 1)[0])
		large := `{"text":"` + strings.Repeat("x", 1<<20) + `"}`
		file := filepath.Join(t.TempDir(), "large.json")
		require.NoError(t, os.WriteFile(file, []byte(large), 0o600))
		read := func(text string, args ...string) result {
			return db.repriseWith(t.Context(), nil, strings.NewReader(text), args...)
		}
		read(large, "publish", topic, "--max-payload", "1").fails(exitFailed, "the payload has more than 1 MiB: keep large data elsewhere and publish where it is, or say --max-payload")
		read("{}\n"+large+"\n", "publish", topic, "--lines", "--max-payload", "1").fails(exitFailed, "line 2 has more than 1 MiB")
		read("", "runs", "edit", id, "--payload", file, "--max-payload", "1", "--yes").fails(exitFailed, "the payload has more than 1 MiB")
		read("", "publish", topic, "{}", "--max-payload", "0").fails(exitUsage, "--max-payload 0: want 1 to 1023 MiB")
		read(large, "publish", topic, "--max-payload", "2").ok()
		read(large, "publish", topic, "--lines").ok()
		read("", "runs", "edit", id, "--payload", file, "--yes").ok()
	})
}
