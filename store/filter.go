package store

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// The bounds of Filter.Limit.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// Filter selects runs: all of what is set must hold. Handlers, topics and
// events are matched exactly. The zero Filter selects every run.
type Filter struct {
	IDs     []int64   `json:"ids,omitempty"`     // any of these runs; nil is any, while an empty list selects none
	Status  Status    `json:"status,omitempty"`  // "" is any
	Handler string    `json:"handler,omitempty"` // "" is any
	Topic   string    `json:"topic,omitempty"`   // "" is any
	EventID string    `json:"event,omitempty"`   // "" is any
	Key     string    `json:"key,omitempty"`     // of the event; "" is any
	Kind    Kind      `json:"kind,omitempty"`    // of the run's last failure; "" is any
	Group   string    `json:"group,omitempty"`   // fingerprint of the run's last failure; "" is any
	Replay  int64     `json:"replay,omitempty"`  // that took the run up last; 0 is any, or none
	Since   time.Time `json:"since,omitzero"`    // event published at or after; zero is open
	Until   time.Time `json:"until,omitzero"`    // event published before; zero is open

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
		f.Kind == "" && f.Group == "" && f.Replay == 0 &&
		f.Since.IsZero() && f.Until.IsZero()
}

// Validate reports every field that no run can be selected by.
func (f Filter) Validate() error {
	var errs []error
	if f.Status != "" {
		if _, err := ParseStatus(string(f.Status)); err != nil {
			errs = append(errs, err)
		}
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		errs = append(errs, fmt.Errorf("since %s is not before until %s", f.Since.Format(time.RFC3339), f.Until.Format(time.RFC3339)))
	}
	if len(f.IDs) > MaxLimit {
		errs = append(errs, fmt.Errorf("%d ids: want at most %d", len(f.IDs), MaxLimit))
	}
	for what, name := range map[string]string{"handler": f.Handler, "topic": f.Topic, "event": f.EventID, "key": f.Key, "kind": string(f.Kind)} {
		if name != "" {
			if err := validName(what, name); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for what, t := range map[string]time.Time{"since": f.Since, "until": f.Until} {
		if !t.IsZero() && (t.UTC().Year() < 1 || t.UTC().Year() > 9998) {
			errs = append(errs, fmt.Errorf("%s in the year %d: want 1 to 9998", what, t.UTC().Year()))
		}
	}
	if f.Group != "" && !isFingerprint.MatchString(f.Group) {
		errs = append(errs, fmt.Errorf("group %q: want the 16 hexadecimal digits of a failure group", f.Group))
	}
	if f.Replay < 0 {
		errs = append(errs, fmt.Errorf("replay %d: want the id of a replay", f.Replay))
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

// where returns the conditions of the filter on handler_runs r, of fixed texts
// and parameters, and the parameters.
func (s *Store) where(f Filter) (string, []any) {
	var (
		conditions []string
		args       []any
	)
	and := func(condition string, values ...any) {
		marks := make([]any, len(values))
		for i, v := range values {
			args = append(args, v)
			marks[i] = fmt.Sprintf("$%d", len(args))
		}
		conditions = append(conditions, fmt.Sprintf(condition, marks...))
	}
	if f.IDs != nil && len(f.IDs) == 0 {
		return `false`, nil
	}
	if len(f.IDs) > 0 {
		values := make([]any, len(f.IDs))
		for i, id := range f.IDs {
			values[i] = id
		}
		and(`r.id IN (`+strings.TrimSuffix(strings.Repeat("%s,", len(values)), ",")+`)`, values...)
	}
	if f.Status != "" {
		and(`r.status = %s`, string(f.Status))
	}
	if f.Status == Failed {
		and(`r.error_kind IS NOT NULL`) // implied, and what the index says
	}
	if f.Handler != "" {
		and(`r.handler = %s`, f.Handler)
	}
	if f.Topic != "" {
		and(`r.topic = %s`, f.Topic)
	}
	if f.EventID != "" {
		and(`r.event_id = %s`, f.EventID)
	}
	if f.Key != "" {
		and(`r.key = %s`, f.Key)
	}
	if f.Kind != "" {
		and(`r.error_kind = %s`, string(f.Kind))
	}
	if f.Group != "" {
		and(`r.error_kind IS NOT NULL AND r.fingerprint = %s`, f.Group)
	}
	if f.Replay != 0 {
		and(`r.replay_id = %s`, f.Replay)
	}
	if !f.Since.IsZero() {
		and(`EXISTS (SELECT 1 FROM reprise.events e WHERE e.id = r.event_id AND e.topic = r.topic AND e.published_at >= %s)`, s.time(f.Since))
	}
	if !f.Until.IsZero() {
		and(`EXISTS (SELECT 1 FROM reprise.events e WHERE e.id = r.event_id AND e.topic = r.topic AND e.published_at < %s)`, s.time(f.Until))
	}
	if f.Before > 0 {
		and(`r.id < %s`, f.Before)
	}
	if len(conditions) == 0 {
		return `true`, nil
	}
	return strings.Join(conditions, ` AND `), args
}
