package cli

import (
	"context"
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/health"
	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/pgserver"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// The runbook of docs/restoring.md, each statement and command as it stands
// there, with a dump that goes from one server to another.
func TestARestoreIntoStagingMailsNobody(t *testing.T) {
	t.Parallel()
	eachDump(t, func(t *testing.T, d *dumped) {
		d.follow("Into staging", func(command string) bool { return !strings.Contains(command, "4711") })
		require.Equal(t, []string{"0\n", ""}, d.printed[len(d.printed)-2:], "nothing waits, and nothing is to be sent")
		mailed := d.serve()
		d.target.reprise("publish", topic, `{"n":"new"}`).ok()
		d.target.eventually(func() bool { return len(mailed()) > 0 && d.target.none(`status = 'PENDING'`) })
		require.Equal(t, []string{"new"}, mailed(), "only what is published here is handled")
		require.Zero(t, d.target.outboxIn(store.OutgoingPending)+d.target.outboxIn(store.OutgoingHeld))
		require.Equal(t, store.Failed, d.target.status(d.failed))

		d.follow("Into staging", func(command string) bool { return strings.Contains(command, "4711") })
		d.target.eventually(func() bool { return len(mailed()) == 2 })
		require.Equal(t, []string{"new", "later"}, mailed())
	})
}

func TestARestoreIntoProductionGoesOn(t *testing.T) {
	t.Parallel()
	eachDump(t, func(t *testing.T, d *dumped) {
		d.follow("Into production", func(string) bool { return true })
		require.Contains(t, d.printed[len(d.printed)-1], "none is alive")
		require.Equal(t, health.OK, checkOf(t, d.target.reprise("doctor", "-o", "json"), "sequences").Severity)
		mailed := d.serve()
		d.target.eventually(func() bool { return len(mailed()) >= 4 })
		require.ElementsMatch(t, []string{"due", "later", "leased", "past"}, mailed(), "what waited is handled, but for the paused replay")
		require.Equal(t, store.Pending, d.target.status(d.paused))
	})
}

// dumped is a database with runs in every state, and what was restored of it.
type dumped struct {
	t              *testing.T
	source, target *db
	dir            string
	env            []string
	failed, paused int64 // runs
	later          int64
	printed        []string // by the commands
}

// mail is an event of the test.
type mail struct{ N string }

func (mail) EventName() string { return topic }

func eachDump(t *testing.T, f func(t *testing.T, d *dumped)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		bin, err := pgserver.Find()
		require.NoError(t, err)
		d := &dumped{t: t, dir: t.TempDir(), source: migrated(t, testdb.NewServer(t).URL)}
		d.fill()
		target := testdb.NewServer(t).URL
		d.env = append(os.Environ(), "PATH="+bin.Dir+":"+os.Getenv("PATH"), "DATABASE_URL="+d.source.url, "TARGET_URL="+target)
		for _, command := range regexp.MustCompile(`(?m)^    (pg_.*)$`).FindAllStringSubmatch(runbook(t), -1) {
			d.shell(command[1], "")
		}
		d.target = migrated(t, target)
		f(t, d)
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		d := &dumped{t: t, source: migrated(t, testdb.SQLite(t))}
		d.fill()
		file := filepath.Join(t.TempDir(), "target.db")
		vacuum := regexp.MustCompile(`(?m)^    sqlite3 app.db "(.*)"$`).FindStringSubmatch(runbook(t))
		d.source.run(strings.ReplaceAll(vacuum[1], "target.db", file))
		d.target = migrated(t, "sqlite:"+file)
		f(t, d)
	})
}

// fill makes work of every kind that a worker would go on with.
func (d *dumped) fill() {
	s := d.source
	s.subscribe("mail")
	s.failed("mail", 3)
	runs, err := s.Runs(d.t.Context(), store.Filter{Status: store.Failed})
	require.NoError(d.t, err)
	d.failed = runs[0].ID
	operation, err := replay.All(d.t.Context(), s.Store, store.Filter{IDs: []int64{runs[1].ID, runs[2].ID}}, replay.Request{By: "test", Rate: 0.001})
	require.NoError(d.t, err)
	_, err = replay.Pause(d.t.Context(), s.Store, operation.ID, replay.Request{By: "maria"})
	require.NoError(d.t, err)
	d.paused = runs[1].ID
	for _, n := range []string{"due", "later", "leased", "ended"} {
		s.reprise("publish", topic, `{"n":"`+n+`"}`).ok()
	}
	waiting, err := s.Runs(d.t.Context(), store.Filter{Status: store.Pending}) // the newest first
	require.NoError(d.t, err)
	ended, leased, later := waiting[0].ID, waiting[1].ID, waiting[2].ID
	d.later = later
	require.NoError(d.t, s.Register(d.t.Context(), store.Instance{ID: "gone/1/abc", Handlers: []string{"mail"}}))
	s.exec(`UPDATE reprise.instances SET heartbeat_at = $1, lowest_run = $2, recent_run = $2`, before(time.Hour), leased)
	s.exec(`UPDATE reprise.handler_runs SET due_at = NULL, instance = 'gone/1/abc', attempt = 1, started_at = $1 WHERE id = $2`, before(time.Hour), leased)
	s.exec(`UPDATE reprise.handler_runs SET due_at = $1 WHERE id = $2`, before(-2*time.Second), later)
	s.exec(`UPDATE reprise.handler_runs SET due_at = NULL, status = 'SUCCESS', attempt = 1, started_at = $1, finished_at = $1 WHERE id = $2`, before(time.Hour), ended)
	s.outbox("orders", 2, false)
	s.outbox("held", 1, true)
	s.exec(`INSERT INTO reprise.events (id, topic, payload, source) VALUES ('past', $1, '{"n":"past"}', 'test')`, topic)
	_, err = s.RequestBackfill(d.t.Context(), store.Operation{Kind: store.Backfilling, RequestedBy: "test", Selection: store.Filter{Handler: "mail", Topic: topic}})
	require.NoError(d.t, err)
}

// follow does what the fenced blocks of a section say.
func (d *dumped) follow(section string, which func(command string) bool) {
	d.t.Helper()
	_, text, found := strings.Cut(runbook(d.t), "\n## "+section+"\n")
	require.True(d.t, found)
	text, _, _ = strings.Cut(text, "\n## ")
	blocks := regexp.MustCompile("(?s)```(sh|sql)\n(.*?)```").FindAllStringSubmatch(text, -1)
	require.NotEmpty(d.t, blocks)
	for _, block := range blocks {
		if !which(block[2]) {
			continue
		}
		if block[1] == "sql" {
			d.sql(block[2])
			continue
		}
		for line := range strings.Lines(block[2]) {
			command, isReprise := strings.CutPrefix(strings.TrimSpace(line), "reprise ")
			if !isReprise {
				require.Equal(d.t, `export REPRISE_DATABASE_URL="$TARGET_URL"`, strings.TrimSpace(line))
				continue
			}
			command = strings.ReplaceAll(command, "4711", strconv.FormatInt(d.later, 10))
			r := d.target.reprise(wordsOf(command)...)
			if command == "outbox list --state PENDING" {
				require.Equal(d.t, exitNothing, r.code)
			} else if command != "doctor" {
				r.ok()
			}
			d.printed = append(d.printed, r.out)
		}
	}
}

func (d *dumped) sql(statements string) {
	d.t.Helper()
	if d.target.kind() == dialect.Postgres {
		d.shell(`psql --no-psqlrc --set=ON_ERROR_STOP=1 "$TARGET_URL"`, statements)
		return
	}
	d.target.run(statements)
}

func (d *dumped) shell(command, stdin string) {
	d.t.Helper()
	sh := osexec.Command("sh", "-c", command)
	sh.Dir, sh.Env, sh.Stdin = d.dir, d.env, strings.NewReader(stdin)
	out, err := sh.CombinedOutput()
	require.NoError(d.t, err, "%s: %s", command, out)
}

// serve runs the application on the restored database, and returns what has been
// mailed.
func (d *dumped) serve() (mailed func() []string) {
	d.t.Helper()
	var mu sync.Mutex
	var sent []string
	b, err := bus.New(d.t.Context(), bus.Config{DB: d.target.DB().DB, PollInterval: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(d.t, err)
	require.NoError(d.t, b.Handle(handlers.New("mail", func(_ context.Context, e mail) error {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, e.N)
		return nil
	}, handlers.Policy{From: handlers.Beginning})))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	d.t.Cleanup(func() {
		stop()
		require.NoError(d.t, <-done)
		require.NoError(d.t, b.Close())
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string{}, sent...)
	}
}

func (d *db) none(condition string) bool {
	d.t.Helper()
	var n int
	require.NoError(d.t, d.DB().Get(&n, d.sql(`SELECT count(*) FROM reprise.handler_runs WHERE `+condition)))
	return n == 0
}

func (d *db) outboxIn(state store.OutgoingState) int {
	d.t.Helper()
	found, err := d.Outbox(d.t.Context(), store.OutboxFilter{State: state})
	require.NoError(d.t, err)
	return len(found)
}

func runbook(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/restoring.md")
	require.NoError(t, err)
	return string(text)
}
