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

// Filter selects runs: all of what is set must hold. Names and ids are matched
// exactly. The zero Filter selects every run.
type Filter struct {
	IDs     []int64     `json:"ids,omitempty"`     // any of these runs; nil is any, while an empty list selects none
	Status  Status      `json:"status,omitempty"`  // "" is any
	Handler string      `json:"handler,omitempty"` // "" is any
	Topic   string      `json:"topic,omitempty"`   // "" is any
	EventID string      `json:"event,omitempty"`   // "" is any
	Key     string      `json:"key,omitempty"`     // of the event; "" is any
	Kind    Kind        `json:"kind,omitempty"`    // of the run's last failure; "" is any
	Text    string      `json:"text,omitempty"`    // that the message of the run's last failure contains, in whatever case; "" is any
	Group   string      `json:"group,omitempty"`   // fingerprint of the run's last failure; "" is any
	Replay  int64       `json:"replay,omitempty"`  // operation that took the run up last; 0 is any, or none
	Since   time.Time   `json:"since,omitzero"`    // event published at or after; zero is open
	Until   time.Time   `json:"until,omitzero"`    // event published before; zero is open
	Payload []Condition `json:"payload,omitempty"` // that the event's payload fulfils, all of them

	Changed time.Time `json:"-"` // ended, or begun, or published, whichever was the last of these, at or after; zero is open

	// The page: runs with an id lower than Before, the last id of the page
	// before this one (0 starts at the newest), Limit of them (0 is
	// DefaultLimit, at most MaxLimit).
	Before int64 `json:"-"`
	Limit  int   `json:"-"`
}

// isFingerprint is what Fingerprint returns.
var isFingerprint = regexp.MustCompile(`^[0-9a-f]{16}$`)

// Empty says whether the filter selects every run, whatever the page.
func (f Filter) Empty() bool {
	return f.IDs == nil && f.Status == "" && f.Handler == "" && f.Topic == "" && f.EventID == "" && f.Key == "" &&
		f.Kind == "" && f.Text == "" && f.Group == "" && f.Replay == 0 &&
		f.Since.IsZero() && f.Until.IsZero() && f.Changed.IsZero() && len(f.Payload) == 0
}

// Validate reports every field that no run can be selected by.
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
	if f.Before < 0 {
		errs = append(errs, fmt.Errorf("before %d: want the id of a run", f.Before))
	}
	if f.Limit < 0 || f.Limit > MaxLimit {
		errs = append(errs, fmt.Errorf("limit %d: want 1 to %d", f.Limit, MaxLimit))
	}
	if len(errs) > 0 {
		return fmt.Errorf("filter: %w", errors.Join(errs...))
	}
	return nil
}

// validWindow reports times that the databases do not keep, and a window that
// nothing is in.
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

// Conditions returns those of the filter, but for its page, on runs with an id
// above the one and below the other, where 0 is open.
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
		// OFFSET keeps PostgreSQL from making it a join, for which it may read all
		// events.
		c.Rest = append(c.Rest, `EXISTS (SELECT 1 FROM reprise.events e WHERE `+sqldb.Conjunction(tests)+` LIMIT 1 OFFSET 0)`)
	}
	return c
}

// likely says that a time of a run of a failure group is there. PostgreSQL takes those
// that failed for as rare in a group as elsewhere, and would rather read and sort the
// whole group than walk it until a page is full; of an expression it knows nothing.
func (s *Store) likely(time string) string {
	if s.db.Kind() == dialect.Postgres {
		time = `(` + time + ` + interval '0')`
	}
	return time + ` IS NOT NULL`
}

// index adds the conditions that an index offers. Each says what the index
// says, too.
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
		// The index of the group alone: PostgreSQL would read all that failed as well.
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

// unreadable are the escapes that PostgreSQL's json takes and does not read, each
// behind complete escapes of backslashes: NUL, a high surrogate without a low one, and
// a low one without a high one.
var unreadable = []string{
	`(?<!\\)((?:\\\\)*)\\u0000`,
	`(?<!\\)((?:\\\\)*)\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})`,
	`(?<!\\)(?<!\\u[dD][89abAB][0-9a-fA-F]{2})((?:\\\\)*)\\u[dD][c-fC-F][0-9a-fA-F]{2}`,
}

// payloadTest is a condition on the payload of event e.
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
	// json keeps \u0000 and lone surrogates, and reading any field of such a payload
	// fails: there, these are read as U+FFFD. What they look like is a parameter:
	// standard_conforming_strings does not matter then.
	readable := `e.payload::text`
	for _, pattern := range unreadable {
		readable = fmt.Sprintf(`regexp_replace(%s, %s::text, %s::text, 'g')`, readable, c.Arg(pattern), c.Arg(`\1\\ufffd`))
	}
	return fmt.Sprintf(`CASE WHEN strpos(e.payload::text, %s::text) = 0 THEN e.payload ELSE CAST(%s AS json) END #>> ARRAY[%s] %s %s::text`,
		c.Arg(`\u`), readable, strings.Join(marks, ","), equal, c.Arg(p.Value))
}
