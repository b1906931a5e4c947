package health

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

func (e *examination) clock(ctx context.Context) (err error) {
	before := time.Now()
	if e.now, err = e.st.Clock(ctx); err != nil {
		return err
	}
	took := time.Since(before)
	skew := e.now.Sub(before.Add(took / 2)).Abs()
	if skew > maxSkew+took/2 {
		e.found("clock", Warning, fmt.Sprintf("this machine's clock is %s off the database's", words.Ago(skew)),
			"The database's clock decides what is due. Times that are typed here are by this machine's: set the clocks right.")
		return nil
	}
	e.found("clock", OK, fmt.Sprintf("it answered within %v", took.Round(10*time.Microsecond)), "")
	return nil
}

func (e *examination) instances(ctx context.Context) error {
	instances, err := e.st.Instances(ctx)
	if err != nil {
		return err
	}
	var silent, stuck []string
	for _, i := range instances {
		switch {
		case !i.Alive():
			silent = append(silent, fmt.Sprintf("%s (%s)", i.ID, words.Ago(i.Silence)))
		case i.Stuck():
			stuck = append(stuck, fmt.Sprintf("%s (for %s)", i.ID, words.Ago(i.Failing)))
		}
	}
	switch alive := len(instances) - len(silent); {
	case alive == 0:
		e.found("instances", Critical, strings.TrimSuffix("none is alive; silent: "+e.named(silent), "; silent: "), "Nothing is run: start the application, with its bus.")
	case len(silent) > 0:
		e.found("instances", Warning, fmt.Sprintf("%d alive; silent: %s", alive, e.named(silent)),
			"Live instances take over the runs of a silent one within seconds. If it stays in the list, they are not in good health either, or a transaction holds its runs: look at their logs, and for transactions that are open.")
	default:
		e.found("instances", OK, fmt.Sprintf("%d alive", alive), "")
	}
	if len(stuck) > 0 {
		e.found("claims", Critical, "alive, but unable to claim what is due: "+e.named(stuck),
			"Their handlers get nothing that is due. The log of such a process says why each claim fails.")
	}
	return nil
}

func (e *examination) subscriptions(ctx context.Context) error {
	subscribed, err := e.st.Subscriptions(ctx)
	if err != nil {
		return err
	}
	var orphans []string
	var oldest store.Subscribed
	for _, s := range subscribed {
		if s.Instances == 0 {
			orphans = append(orphans, fmt.Sprintf("%s on %s (%s due)", s.Handler, s.Topic, s.Due))
		}
		if !s.OldestDue.IsZero() && (oldest.OldestDue.IsZero() || s.OldestDue.Before(oldest.OldestDue)) {
			oldest = s
		}
	}
	if len(orphans) > 0 {
		e.found("handlers", Warning, "no live instance serves "+e.named(orphans),
			"Their runs wait. Start the application that serves them; for a handler that was renamed or removed: reprise handlers remove NAME --topic TOPIC, then reprise runs discard --handler NAME --topic TOPIC --status PENDING --reason ….")
	} else {
		e.found("handlers", OK, words.Several(int64(len(subscribed)), "subscription")+", all served", "")
	}
	waits := e.now.Sub(oldest.OldestDue)
	if oldest.OldestDue.IsZero() || waits <= min(e.limits.DueWarning, e.limits.DueCritical) {
		e.found("due", OK, "nothing waits for long", "")
		return nil
	}
	severity := Warning
	if waits > e.limits.DueCritical {
		severity = Critical
	}
	e.found("due", severity, fmt.Sprintf("a run of %s is due since %s", oldest.Handler, words.Ago(waits)),
		fmt.Sprintf("More is published than is handled, or nobody serves it: see reprise handlers list; reprise runs list --handler %s --status PENDING.", words.Quoted(oldest.Handler)))
	return nil
}

// unheard finds topics with new events but without a subscription.
func (e *examination) unheard(ctx context.Context) error {
	topics, err := e.st.Unheard(ctx)
	if err != nil {
		return err
	}
	if len(topics) == 0 {
		e.found("topics", OK, "each of the newest events has a subscription", "")
		return nil
	}
	var some []string
	for _, t := range topics[:min(len(topics), 10)] {
		some = append(some, fmt.Sprintf("%s (%s)", t.Topic, words.Several(t.Events, "event")))
	}
	if more := len(topics) - len(some); more > 0 {
		some = append(some, fmt.Sprintf("%s more", words.Thousands(int64(more))))
	}
	e.found("topics", Warning, fmt.Sprintf("of the newest %s events, no handler is subscribed to %s", words.Thousands(store.UnheardAmong), strings.Join(some, ", ")),
		"No handler gets them. If one should: start the application that has it, then reprise backfill, which gives it the past events. Else see whether the topic's name is the one that the handler has.")
	return nil
}

func (e *examination) failures(ctx context.Context) error {
	failed, err := e.st.Count(ctx, store.Filter{Status: store.Failed, Since: e.now.Add(-24 * time.Hour)})
	if err != nil {
		return err
	}
	switch {
	case failed.N > 0:
		e.found("failures", Warning, fmt.Sprintf("%s FAILED on the events of the last day", failed), "See which: reprise runs groups --since 1d. Then replay, edit or discard them.")
	case failed.More:
		e.found("failures", Warning, "so many runs are FAILED that not all were looked at; the newest are on events of before the last day",
			"See which: reprise runs groups. Then replay, edit or discard them.")
	default:
		e.found("failures", OK, "none on the events of the last day", "")
	}
	return nil
}

// groups compares the failure groups with the runs.
func (e *examination) groups(ctx context.Context) error {
	m, err := e.st.Miscounted(ctx)
	if err != nil {
		return err
	}
	switch {
	case m.Counting:
		e.found("groups", OK, "failures of before an upgrade, or a recount, are still being counted", "")
	case m.Is():
		e.found("groups", Warning, fmt.Sprintf("the failure groups have %s, and %s FAILED", words.Several(m.Counted, "run"), words.Several(m.Failed.N, "run")),
			"Somebody has changed the tables by hand, or restored a part of them. To have the failures counted anew: reprise runs groups --recount.")
	case m.Failed.More:
		e.found("groups", OK, fmt.Sprintf("not compared with the runs: more than %s FAILED", words.Several(m.Failed.N, "run")), "")
	default:
		e.found("groups", OK, "they have the runs that FAILED", "")
	}
	return nil
}

func (e *examination) outbox(ctx context.Context) error {
	counts, err := e.st.OutboxCounts(ctx)
	if err != nil {
		return err
	}
	relay, err := e.st.RelayedBy(ctx)
	if err != nil {
		return err
	}
	in := map[store.OutgoingState][]store.OutboxCount{}
	for _, c := range counts {
		in[c.State] = append(in[c.State], c)
	}
	severity, findings, advice := OK, []string{}, []string{}
	if waits, finding := e.waiting(in[store.OutgoingPending], e.now); waits > unsentWarn {
		severity = Warning
		if relay == "" {
			if waits > unsentCritical {
				severity = Critical
			}
			findings = append(findings, finding+", and no process sends")
			advice = append(advice, "Start the application, with its transport configured: one of its processes sends what waits. See reprise outbox status.")
		} else {
			findings = append(findings, finding+", sent by "+relay)
			advice = append(advice, "The broker takes less than is published, or nothing: see whether it is up. What waits is sent when it is. See reprise outbox status.")
		}
	}
	if refused := in[store.OutgoingRefused]; len(refused) > 0 {
		if severity == OK {
			severity = Warning
		}
		var each []string
		for _, c := range refused {
			each = append(each, fmt.Sprintf("%s of topic %s REFUSED: %s", words.Thousands(c.N), c.Topic, e.brief(c.Error)))
		}
		findings = append(findings, e.named(each))
		advice = append(advice, "What the broker refuses stays until somebody decides: see reprise outbox list --state REFUSED; then reprise outbox send, or drop.")
	}
	if len(findings) == 0 {
		findings = append(findings, "nothing waits for long")
	}
	if held := in[store.OutgoingHeld]; len(held) > 0 {
		findings = append(findings, "HELD until somebody releases it: "+words.ByTopic(held))
	}
	e.found("outbox", severity, strings.Join(findings, "; "), strings.Join(advice, " "))
	return nil
}

// waiting returns how long the oldest of these messages has been waiting, and a text
// with the number of messages and the error that keeps the oldest.
func (e *examination) waiting(counts []store.OutboxCount, now time.Time) (time.Duration, string) {
	if len(counts) == 0 {
		return 0, ""
	}
	oldest, n := counts[0], int64(0)
	for _, c := range counts {
		n += c.N
		if c.Oldest.Before(oldest.Oldest) {
			oldest = c
		}
	}
	waits := now.Sub(oldest.Oldest)
	finding := fmt.Sprintf("%s to be sent, the first since %s (topic %s", words.Several(n, "message"), words.Ago(waits), oldest.Topic)
	if oldest.Error != "" {
		finding += ": " + e.brief(oldest.Error)
	}
	return waits, finding + ")"
}

func (e *examination) operations(ctx context.Context) error {
	operations, err := e.st.OpenOperations(ctx)
	if err != nil {
		return err
	}
	var paused, left []string
	for _, o := range operations {
		text := fmt.Sprintf("%d (%s by %s, %s of %s)", o.ID, o.Kind, o.RequestedBy, words.Thousands(o.Taken), o.Total)
		switch {
		case o.State == store.Paused:
			paused = append(paused, text)
		case o.State == store.Running && !o.Complete && o.Kind.OnRuns() && e.now.Sub(o.RequestedAt) > takingUp:
			left = append(left, text)
		}
	}
	var findings []string
	if len(paused) > 0 {
		findings = append(findings, "paused: "+e.named(paused))
	}
	if len(left) > 0 {
		findings = append(findings, "incomplete: "+e.named(left))
	}
	if len(findings) == 0 {
		e.found("operations", OK, "none is paused or incomplete", "")
		return nil
	}
	e.found("operations", Warning, strings.Join(findings, "; "),
		"Runs of a paused operation wait until it is resumed. An incomplete one is either still being requested, or whoever requested it is gone: reprise replays resume N, or cancel N (undo N for a discard).")
	return nil
}

// rows looks only at the newest runs.
func (e *examination) rows(ctx context.Context) error {
	const among = 100_000
	ids, err := e.st.Contradictory(ctx, among)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		e.found("rows", OK, fmt.Sprintf("none of the newest %s runs contradicts itself", words.Thousands(among)), "")
		return nil
	}
	some := make([]string, len(ids))
	for i, id := range ids {
		some[i] = fmt.Sprint(id)
	}
	again, err := e.runAgain(ctx, some)
	if err != nil {
		return err
	}
	if len(ids) == store.MaxContradictory {
		some = append(some, "and perhaps more")
	}
	e.found("rows", Warning, "runs that contradict themselves, and may be neither run nor listed: "+e.named(some),
		"Somebody has changed them by hand, but not all that goes with it. Another time: reprise runs replay, discard or edit. To have them run again:\n  "+again+";")
	return nil
}

// runAgain returns the statement that makes contradictory runs due again.
func (e *examination) runAgain(ctx context.Context, ids []string) (string, error) {
	kind, err := dialect.Detect(ctx, e.st.DB().DB)
	if err != nil {
		return "", err
	}
	now := map[dialect.Kind]string{dialect.Postgres: "now()", dialect.SQLite: "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"}[kind]
	return kind.Qualify(e.st.Schema(), "UPDATE reprise.handler_runs SET status = 'PENDING', due_at = "+now+", instance = NULL, finished_at = NULL, failed_at = NULL, discarded_at = NULL WHERE id IN ("+strings.Join(ids, ", ")+")"), nil
}

// sequences finds sequences behind their tables, which make publishing fail after a
// restore.
func (e *examination) sequences(ctx context.Context) error {
	sequences, err := e.st.Sequences(ctx)
	if err != nil {
		return err
	}
	var behind, unread, mends []string
	for _, q := range sequences {
		switch {
		case !q.Readable:
			unread = append(unread, q.Table)
		case q.IsBehind():
			behind = append(behind, fmt.Sprintf("%s (next %d, highest %d)", q.Table, q.Next, q.Highest))
			mends = append(mends, q.Mend+";")
		}
	}
	switch {
	case len(behind) > 0:
		e.found("sequences", Critical, "behind their tables: "+e.named(behind),
			"New rows get numbers that are taken, so that publishing and recording fail. A partial restore does that, and logical replication. Run as the owner of the tables:\n  "+strings.Join(mends, "\n  "))
	case len(unread) > 0:
		e.found("sequences", OK, fmt.Sprintf("this role may not read those of %s: see GRANT SELECT ON ALL SEQUENCES IN SCHEMA %s", e.named(unread), e.st.Schema()), "")
	default:
		e.found("sequences", OK, "none is behind its table", "")
	}
	return nil
}

// columns finds changes of the tables.
func (e *examination) columns(ctx context.Context) error {
	differences, err := migrations.Differences(ctx, e.st.DB().DB, e.st.Schema())
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		e.found("columns", Warning, "not as the migrations made them: "+e.named(differences),
			"Somebody has changed the tables, or a restore has lost some of them. Columns, indexes and tables that you add are fine; change the others back.")
		return nil
	}
	e.found("columns", OK, "as the migrations made them", "")
	return nil
}

func (e *examination) tables(ctx context.Context) error {
	sizes, err := e.st.Sizes(ctx)
	if err != nil || len(sizes) == 0 {
		return err
	}
	var bloated []string
	var bytes int64
	for _, s := range sizes {
		bytes += s.Bytes
		if s.Dead > deadRows && s.Dead*100 > (s.Rows+s.Dead)*deadPercent && !s.Vacuuming {
			bloated = append(bloated, fmt.Sprintf("%s (%s dead of %s rows)", s.Table, words.Thousands(s.Dead), words.Thousands(s.Rows+s.Dead)))
		}
	}
	if len(bloated) > 0 {
		e.found("tables", Warning, "dead rows in "+e.named(bloated),
			"A vacuum is overdue: look for transactions that are open for long, and lower autovacuum_vacuum_scale_factor of these tables.")
		return nil
	}
	e.found("tables", OK, fmt.Sprintf("%s MB, few dead rows", words.Thousands(bytes>>20)), "")
	return nil
}
