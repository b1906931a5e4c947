package store

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

// The bounds of Filter.Limit.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// Filter selects runs: every field that is set must match. Names and ids match exactly.
// The zero Filter selects every run.
type Filter struct {
	IDs     []int64     `json:"ids,omitempty"`     // any of these runs; nil is any run, and an empty list selects none
	Status  Status      `json:"status,omitempty"`  // "" is any
	Handler string      `json:"handler,omitempty"` // "" is any
	Topic   string      `json:"topic,omitempty"`   // "" is any
	EventID string      `json:"event,omitempty"`   // "" is any
	Key     string      `json:"key,omitempty"`     // of the event; "" is any
	Kind    Kind        `json:"kind,omitempty"`    // of the run's last failure; "" is any
	Text    string      `json:"text,omitempty"`    // part of the message of the run's last failure, in any case; "" is any
	Group   string      `json:"group,omitempty"`   // fingerprint of the run's last failure; "" is any
	Replay  int64       `json:"replay,omitempty"`  // the last operation that took the run up; 0 is any or none
	Since   time.Time   `json:"since,omitzero"`    // event published at or after this time; zero is open
	Until   time.Time   `json:"until,omitzero"`    // event published before this time; zero is open
	Payload []Condition `json:"payload,omitempty"` // conditions on the event's payload; all of them must hold

	Changed time.Time `json:"-"` // finished, else started, else published, at or after this time; zero is open

	// The page. It holds at most Limit runs with an id lower than Before. Before is the
	// last id of the previous page; 0 starts at the newest run. A Limit of 0 is
	// DefaultLimit; the maximum is MaxLimit.
	Before int64 `json:"-"`
	Limit  int   `json:"-"`
}

// isFingerprint matches the results of Fingerprint.
var isFingerprint = regexp.MustCompile(`^[0-9a-f]{16}$`)

// Empty reports whether the filter selects every run. It ignores the page.
func (f Filter) Empty() bool {
	return f.IDs == nil && f.Status == "" && f.Handler == "" && f.Topic == "" && f.EventID == "" && f.Key == "" &&
		f.Kind == "" && f.Text == "" && f.Group == "" && f.Replay == 0 &&
		f.Since.IsZero() && f.Until.IsZero() && f.Changed.IsZero() && len(f.Payload) == 0
}

// Validate reports every field that no run can match.
func (f Filter) Validate() error {
	var errs []error
	if f.Status != "" {
		if _, err := ParseStatus(string(f.Status)); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, validWindow(f.Since, f.Until)...)
	if len(f.IDs) > MaxLimit {
		errs = append(errs, fmt.Errorf("%d ids: want at most %d", len(f.IDs), MaxLimit))
	}
	for _, named := range []struct{ what, name string }{
		{"handler", f.Handler}, {"topic", f.Topic}, {"event", f.EventID}, {"key", f.Key}, {"kind", string(f.Kind)}, {"text", f.Text},
	} {
		if named.name != "" {
			if err := sqldb.ValidName(named.what, named.name); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if f.Group != "" && !isFingerprint.MatchString(f.Group) {
		errs = append(errs, fmt.Errorf("group %.255q: want the 16 hexadecimal digits of a failure group", f.Group))
	}
	if f.Replay < 0 {
		errs = append(errs, fmt.Errorf("replay %d: want the id of a replay", f.Replay))
	}
	for _, c := range f.Payload {
		if err := c.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	if err := validPage("a run", f.Before, f.Limit); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return fmt.Errorf("filter: %w", errors.Join(errs...))
	}
	return nil
}

// validPage reports a page of a list that cannot be. what is in the list, such as "a run".
func validPage(what string, before int64, limit int) error {
	var errs []error
	if before < 0 {
		errs = append(errs, fmt.Errorf("before %d: want the id of %s", before, what))
	}
	if limit < 0 || limit > MaxLimit {
		errs = append(errs, fmt.Errorf("limit %d: want 1 to %d", limit, MaxLimit))
	}
	return errors.Join(errs...)
}

// validWindow reports times that the databases do not store, and an empty window.
func validWindow(since, until time.Time) (errs []error) {
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		errs = append(errs, fmt.Errorf("since %s is not before until %s", since.Format(time.RFC3339), until.Format(time.RFC3339)))
	}
	for _, bound := range []struct {
		what string
		t    time.Time
	}{{"since", since}, {"until", until}} {
		if year := bound.t.UTC().Year(); !bound.t.IsZero() && (year < 1 || year > 9998) {
			errs = append(errs, fmt.Errorf("%s in the year %d: want 1 to 9998", bound.what, year))
		}
	}
	return errs
}

// Conditions returns the conditions of the filter without its page. They select runs r
// with an id greater than above and lower than below; 0 means no bound.
func (s *Store) Conditions(f Filter, above, below int64) *sqldb.Conditions {
	c := &sqldb.Conditions{}
	s.index(c, f)
	if above > 0 {
		c.Index(`r.id > %s`, above)
	}
	if below > 0 {
		c.Index(`r.id < %s`, below)
	}
	if f.Status != "" && f.Status != Failed && f.Status != Discarded {
		c.And(`r.status = %s`, string(f.Status))
	}
	if f.Handler != "" && (f.Status != Failed || f.Group != "") {
		c.And(`r.handler = %s`, f.Handler)
	}
	if f.Status == Failed && f.Group != "" {
		c.And(s.likely(`r.failed_at`))
	}
	if f.Status == Discarded && f.Group != "" {
		c.And(s.likely(`r.discarded_at`))
	}
	if f.Topic != "" {
		c.And(`r.topic = %s`, f.Topic)
	}
	if f.Kind != "" {
		c.And(`r.error_kind = %s`, string(f.Kind))
	}
	if f.Text != "" {
		c.And(`strpos(lower(r.error), lower(%s)) > 0`, f.Text)
	}
	if !f.Since.IsZero() {
		c.And(`r.published_at >= %s`, s.db.Time(f.Since))
	}
	if !f.Until.IsZero() {
		c.And(`r.published_at < %s`, s.db.Time(f.Until))
	}
	if !f.Changed.IsZero() {
		c.And(`coalesce(r.finished_at, r.started_at, r.published_at) >= %s`, s.db.Time(f.Changed))
	}
	if len(f.Payload) > 0 {
		tests := []string{`e.id = r.event_id`, `e.topic = r.topic`, `e.payload IS NOT NULL`}
		for _, p := range f.Payload {
			tests = append(tests, s.payloadTest(c, p))
		}
		// OFFSET keeps PostgreSQL from turning the subquery into a join, for which it
		// may read all events.
		c.Rest = append(c.Rest, `EXISTS (SELECT 1 FROM reprise.events e WHERE `+sqldb.Conjunction(tests)+` LIMIT 1 OFFSET 0)`)
	}
	return c
}

// likely returns the condition that a time of a run is not NULL, in a form that
// PostgreSQL does not take for rare. The planner assumes that FAILED runs are as rare
// in a failure group as elsewhere, and would read and sort the whole group instead of
// walking it until a page is full. Of an expression the planner has no statistics.
func (s *Store) likely(time string) string {
	if s.db.Kind() == dialect.Postgres {
		time = `(` + time + ` + interval '0')`
	}
	return time + ` IS NOT NULL`
}

// index adds the conditions that an index offers, in the words of the index.
func (s *Store) index(c *sqldb.Conditions, f Filter) {
	switch {
	case f.IDs == nil:
	case len(f.IDs) == 0:
		c.Index(`false`)
	default:
		values := make([]any, len(f.IDs))
		for i, id := range f.IDs {
			values[i] = id
		}
		c.Index(`r.id IN (`+strings.TrimSuffix(strings.Repeat("%s,", len(values)), ",")+`)`, values...)
	}
	switch {
	case f.Group != "":
		// Only the index of the group: with more conditions PostgreSQL would also read
		// all FAILED runs.
		c.Index(`r.fingerprint = %s`, f.Group)
	case f.Status == Failed:
		c.Index(`r.failed_at IS NOT NULL`)
		if f.Handler != "" {
			c.Index(`r.handler = %s`, f.Handler)
		}
	case f.Status == Discarded:
		c.Index(`r.discarded_at IS NOT NULL`)
	}
	if f.EventID != "" {
		c.Index(`r.event_id = %s`, f.EventID)
	}
	if f.Key != "" {
		c.Index(`r.key <> '' AND r.key = %s`, f.Key)
	}
	if f.Replay != 0 {
		c.Index(`r.replay_id = %s`, f.Replay)
	}
}

// unreadable are patterns of escapes that PostgreSQL's json type accepts but cannot
// read: NUL, a high surrogate without a low one, and a low surrogate without a high
// one. Each pattern begins with any number of escaped backslashes.
var unreadable = []string{
	`(?<!\\)((?:\\\\)*)\\u0000`,
	`(?<!\\)((?:\\\\)*)\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})`,
	`(?<!\\)(?<!\\u[dD][89abAB][0-9a-fA-F]{2})((?:\\\\)*)\\u[dD][c-fC-F][0-9a-fA-F]{2}`,
}

// payloadTest returns a condition on the payload of event e.
func (s *Store) payloadTest(c *sqldb.Conditions, p Condition) string {
	equal := map[string]string{Equal: `IS NOT DISTINCT FROM`, Unequal: `IS DISTINCT FROM`}[p.Op]
	if s.db.Kind() == dialect.SQLite {
		equal = map[string]string{Equal: `IS`, Unequal: `IS NOT`}[p.Op]
		path := c.Arg(p.sqlitePath())
		return fmt.Sprintf(`CASE json_type(e.payload, %[1]s) WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'
			ELSE CAST(json_extract(e.payload, %[1]s) AS TEXT) END %[2]s %[3]s`, path, equal, c.Arg(p.Value))
	}
	marks := make([]string, len(p.Path))
	for i, element := range p.Path {
		marks[i] = c.Arg(element) + `::text`
	}
	// The json type keeps \u0000 and lone surrogates, but reading any field of such a
	// payload fails. This expression replaces them by U+FFFD. The patterns are
	// parameters, so that standard_conforming_strings does not matter.
	readable := `e.payload::text`
	for _, pattern := range unreadable {
		readable = fmt.Sprintf(`regexp_replace(%s, %s::text, %s::text, 'g')`, readable, c.Arg(pattern), c.Arg(`\1\\ufffd`))
	}
	return fmt.Sprintf(`CASE WHEN strpos(e.payload::text, %s::text) = 0 THEN e.payload ELSE CAST(%s AS json) END #>> ARRAY[%s] %s %s::text`,
		c.Arg(`\u`), readable, strings.Join(marks, ","), equal, c.Arg(p.Value))
}
