package migrations_test

import (
	"archive/zip"
	"bufio"
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// besides are the versions whose processes work on beside those of this
// version, on the tables of this version. The source of each is in
// testdata/vN.zip.
var besides = []int{1, 2, 3, 4}

// A rolling upgrade of a database with runs in every state: processes of the old
// version publish and handle while the first of the new one migrates, then both
// work side by side, and one of each is killed with work in hand. Nothing is
// lost, nothing transactional is done twice, and every run ends.
func TestARollingUpgrade(t *testing.T) {
	t.Parallel()
	programs := t.TempDir()
	current := buildWorker(t, programs, "current", "", "./testdata/worker")
	for _, version := range besides {
		name := fmt.Sprintf("v%d", version)
		old := buildWorker(t, programs, name, unpackVersion(t, version), "./worker")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testdb.Each(t, func(t *testing.T, url string) {
				if kindOf(url) == dialect.SQLite && version < slices.Max(besides) {
					return // one file on one machine is upgraded from the version before
				}
				r := &rolling{t: t, url: url, kind: kindOf(url), dir: t.TempDir(), db: testdb.Open(t, url), said: map[string]int{}}
				r.upgrade(version, old, current)
			})
		})
	}
}

func (r *rolling) upgrade(version int, old, current string) {
	t := r.t
	r.exec(`CREATE TABLE written (id text)`)
	a, b, dying, late := r.start(old), r.start(old), r.start(old), r.start(old, "waiting")
	database, _, err := migrations.Versions(t.Context(), r.db, "")
	require.NoError(t, err)
	require.Equal(t, version, database, "the old program made the tables")

	// Runs in every state.
	r.until("the handler that nobody will serve is subscribed", `SELECT count(*) = 1 FROM reprise.subscriptions WHERE handler = 'waiter'`)
	late.leave()
	a.do("publish work before 50")
	a.do("publish waiting before 10")
	a.do("publish snooze before 5")
	a.do("publish broken before 10")
	r.until("the broken runs have FAILED", `SELECT count(*) = 10 FROM reprise.handler_runs WHERE handler = 'breaker' AND status = 'FAILED'`)
	a.do(fmt.Sprintf("discard %s", r.value(`SELECT min(id) FROM reprise.handler_runs WHERE handler = 'breaker'`)))
	a.do("replay-paused breaker")
	r.until("the handled runs have ended", `SELECT count(*) = 150 FROM reprise.handler_runs WHERE topic = 'work' AND status = 'SUCCESS'`)
	held := a.hold("live")
	r.exec(`INSERT INTO reprise.outbox (event_id, topic, payload, state, sent_at) VALUES ('1', 'elsewhere', '{}', 'PENDING', NULL), ('2', 'elsewhere', '{}', 'SENT', now()), ('3', 'elsewhere', '{}', 'HELD', NULL)`)
	outbox := r.value(`SELECT count(*) || ' ' || min(state) || ' ' || max(state) || ' ' || max(id) FROM reprise.outbox`)
	lost := dying.hold("dying")
	dying.kill()
	for state, there := range map[string]string{
		"SUCCESS":             `status = 'SUCCESS'`,
		"DISCARDED":           `status = 'DISCARDED'`,
		"due, with no server": `handler = 'waiter' AND status = 'PENDING' AND due_at <= now()`,
		"due later":           `handler = 'snoozer' AND status = 'PENDING' AND due_at IS NOT NULL`,
		"of a paused replay":  `handler = 'breaker' AND status = 'PENDING' AND due_at >= '9999'`,
		"leased":              `event_id = '` + held + `' AND status = 'PENDING' AND due_at IS NULL`,
		"leased by the dead":  `event_id = '` + lost + `' AND status = 'PENDING' AND due_at IS NULL`,
	} {
		if r.kind == dialect.Postgres {
			there = strings.ReplaceAll(there, "'9999'", "'9999-01-01'")
		}
		require.Equal(t, "true", r.value(`SELECT CASE WHEN count(*) > 0 THEN 'true' ELSE 'false' END FROM reprise.handler_runs WHERE `+there), "a run %s", state)
	}

	// The new program migrates under load, and works.
	a.begin("publish work beside-a 300")
	b.begin("publish work beside-b 300")
	one := r.start(current, "waiting")
	require.NoError(t, migrations.Check(t.Context(), r.db, ""))
	two := r.start(current, "waiting")
	one.begin("publish work new-one 300")
	two.begin("publish work new-two 300")

	// An old program that is started now is refused.
	refused := r.command(old)
	out, err := refused.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), fmt.Sprintf("knows versions up to %d", version))

	// One of each dies with work in hand, while both publish.
	b.hold("old")
	two.hold("new")
	b.end("publish work beside-b 300")
	two.end("publish work new-two 300")
	b.kill()
	two.kill()
	one.begin("publish snooze after 5")
	a.end("publish work beside-a 300")
	one.end("publish work new-one 300")
	a.do("publish work after-a 50")
	one.do("publish work after-one 50")
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "released"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "mended"), nil, 0o600))
	one.do("resume " + r.value(`SELECT max(id) FROM reprise.operations WHERE kind = 'replay'`))
	r.until("every run has ended", `SELECT count(*) = 0 FROM reprise.handler_runs WHERE status = 'PENDING'`)
	r.until("the dead are forgotten", `SELECT count(*) = 2 FROM reprise.instances`)
	a.leave()
	one.leave()

	r.requirePromises()
	require.Equal(t, outbox, r.value(`SELECT count(*) || ' ' || min(state) || ' ' || max(state) || ' ' || max(id) FROM reprise.outbox`))
}

// requirePromises counts what was published, said, written and recorded.
func (r *rolling) requirePromises() {
	t := r.t
	served := map[string][]string{
		"work": {"plain", "fragile", "once"}, "hold": {"holder"}, "snooze": {"snoozer"}, "broken": {"breaker"}, "waiting": {"waiter"},
	}
	discarded := queryColumn(t, r.db, r.sql(`SELECT event_id FROM reprise.handler_runs WHERE status = 'DISCARDED'`))
	require.Equal(t, []string{"before-0"}, discarded)
	once := map[string]int{}
	for _, id := range queryColumn(t, r.db, `SELECT id FROM written`) {
		once[id]++
		require.Equal(t, 1, once[id], "what the transactional handler wrote for %s", id)
	}
	published := 0
	for line := range r.said {
		topic, id, isPublished := strings.Cut(strings.TrimPrefix(line, "published "), " ")
		if !isPublished || !strings.HasPrefix(line, "published ") {
			continue
		}
		published++
		for _, handler := range served[topic] {
			switch {
			case handler == "once":
				require.Equal(t, 1, once[id], "event %s is handled by once", id)
			case topic != "broken":
				require.Positive(t, r.said["handled "+handler+" "+id], "event %s is handled by %s", id, handler)
			}
			require.Equal(t, "1", r.value(fmt.Sprintf(`SELECT count(*) FROM reprise.handler_runs WHERE event_id = '%s' AND topic = '%s' AND handler = '%s'`, id, topic, handler)))
		}
	}
	require.Greater(t, published, 50+10+5+10+4*300+100)
	require.Equal(t, "9", r.value(`SELECT count(*) FROM reprise.handler_runs WHERE handler = 'breaker' AND status IN ('SUCCESS', 'FAILED')`))
	require.Equal(t, "0", r.value(`SELECT count(*) FROM reprise.handler_runs WHERE handler <> 'breaker' AND status = 'FAILED'`))
	for line := range r.said { // each was due before its replay was paused, or after it was resumed
		if id, isMended := strings.CutPrefix(line, "handled breaker "); isMended {
			require.Equal(t, "SUCCESS", r.value(fmt.Sprintf(`SELECT status FROM reprise.handler_runs WHERE event_id = '%s'`, id)))
		}
	}
	require.NotEqual(t, "0", r.value(`SELECT count(*) FROM reprise.handler_runs WHERE handler = 'breaker' AND status = 'SUCCESS'`))

	st, err := store.New(t.Context(), r.db, "")
	require.NoError(t, err)
	contradictory, err := st.Contradictory(t.Context(), 100_000)
	require.NoError(t, err)
	require.Empty(t, contradictory)

	// Failures of before the upgrade, and of processes that know nothing of groups,
	// are counted.
	miscount, err := st.Miscounted(t.Context())
	require.NoError(t, err)
	require.False(t, miscount.Counting)
	require.False(t, miscount.Is(), "%+v", miscount)
}

// rolling is a database that is upgraded, and what its processes have said.
type rolling struct {
	t    *testing.T
	url  string
	kind dialect.Kind
	dir  string
	db   *sql.DB

	mu   sync.Mutex
	said map[string]int // line → how often
}

func (r *rolling) sql(statement string) string {
	statement = r.kind.Qualify("reprise", statement)
	if r.kind == dialect.SQLite {
		statement = strings.ReplaceAll(statement, "now()", "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')")
	}
	return statement
}

func (r *rolling) exec(statement string) {
	r.t.Helper()
	_, err := r.db.Exec(r.sql(statement))
	require.NoError(r.t, err)
}

func (r *rolling) value(query string) (v string) {
	r.t.Helper()
	require.NoError(r.t, r.db.QueryRow(r.sql(query)).Scan(&v))
	return v
}

func (r *rolling) until(what, query string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		var holds bool
		require.NoError(r.t, r.db.QueryRow(r.sql(query)).Scan(&holds))
		return holds
	}, 2*time.Minute, 20*time.Millisecond, what)
}

// worker is a process.
type worker struct {
	*rolling
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr *bytes.Buffer
	ended  chan struct{} // closed when all that it said is in said

	mine map[string]bool // lines that this process said
}

func (r *rolling) command(program string, flags ...string) *exec.Cmd {
	flags = append(flags, "")
	return exec.Command(program, r.url, r.dir, flags[0])
}

// start starts a process, which works when start returns.
func (r *rolling) start(program string, flags ...string) *worker {
	r.t.Helper()
	w := &worker{rolling: r, cmd: r.command(program, flags...), stderr: &bytes.Buffer{}, ended: make(chan struct{}), mine: map[string]bool{}}
	var err error
	w.stdin, err = w.cmd.StdinPipe()
	require.NoError(r.t, err)
	stdout, err := w.cmd.StdoutPipe()
	require.NoError(r.t, err)
	w.cmd.Stderr = w.stderr
	require.NoError(r.t, w.cmd.Start())
	go func() {
		defer close(w.ended)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			r.mu.Lock()
			r.said[lines.Text()]++
			w.mine[lines.Text()] = true
			r.mu.Unlock()
		}
	}()
	r.t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		<-w.ended
		_ = w.cmd.Wait()
		if r.t.Failed() {
			for line := range strings.Lines(w.stderr.String()) {
				if !strings.Contains(line, `msg="Handler returned error"`) {
					r.t.Logf("%s: %s", filepath.Base(program), line)
				}
			}
		}
	})
	w.await(fmt.Sprintf("ready %d", w.cmd.Process.Pid))
	return w
}

func (w *worker) says(line string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mine[line]
}

func (w *worker) await(line string) {
	w.t.Helper()
	deadline := time.After(2 * time.Minute)
	for !w.says(line) {
		select {
		case <-w.ended:
			require.True(w.t, w.says(line), "the process ended before it said %q", line)
		case <-deadline:
			require.Fail(w.t, "the process did not say "+line)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// begin gives a command, and end waits for its end.
func (w *worker) begin(command string) {
	w.t.Helper()
	_, err := io.WriteString(w.stdin, command+"\n")
	require.NoError(w.t, err)
}

func (w *worker) end(command string) { w.t.Helper(); w.await("done " + command) }

func (w *worker) do(command string) { w.t.Helper(); w.begin(command); w.end(command) }

// hold publishes events that are held until the process holds one, and returns
// its id. Others may take some of them.
func (w *worker) hold(prefix string) (id string) {
	w.t.Helper()
	for i := range 60 {
		w.do(fmt.Sprintf("publish hold %s%d 1", prefix, i))
		id = fmt.Sprintf("%s%d-0", prefix, i)
		held := func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.said["holding "+id] > 0
		}
		require.Eventually(w.t, held, time.Minute, 5*time.Millisecond, "somebody holds %s", id)
		if w.says("holding " + id) {
			return id
		}
	}
	require.Fail(w.t, "the process gets none of what it publishes")
	return ""
}

func (w *worker) kill() {
	w.t.Helper()
	require.NoError(w.t, w.cmd.Process.Kill())
	<-w.ended
}

// leave ends the process as a deployment does.
func (w *worker) leave() {
	w.t.Helper()
	require.NoError(w.t, w.stdin.Close())
	<-w.ended
	require.NoError(w.t, w.cmd.Wait(), w.stderr.String())
}

// unpackVersion unpacks the source of a version, testdata/vN.zip, with the
// worker of this one, and returns the directory. It takes this module's go.mod:
// what that names is in the module cache already.
func unpackVersion(t *testing.T, version int) string {
	t.Helper()
	dir := t.TempDir()
	pause := "pause.go"
	if version <= 3 { // without the requester
		pause = "pause_v3.txt"
	}
	archive, err := zip.OpenReader(filepath.Join("testdata", fmt.Sprintf("v%d.zip", version)))
	require.NoError(t, err)
	defer archive.Close()
	require.NoError(t, os.CopyFS(dir, archive))
	for from, to := range map[string]string{"../go.mod": "go.mod", "../go.sum": "go.sum", "testdata/worker/main.go": "worker/main.go", "testdata/worker/" + pause: "worker/pause.go"} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, to)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, to), text, 0o600))
	}
	return dir
}

func buildWorker(t *testing.T, programs, name, module, pkg string) string {
	t.Helper()
	program := filepath.Join(programs, name)
	build := exec.Command("go", "build", "-o", program, pkg)
	build.Dir = module
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return program
}
