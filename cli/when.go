package cli

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const whenUsage = "2026-07-01, '2026-07-01 14:05', 14:05 today, RFC 3339, or an age such as 2h or 3d"

// when is a flag: a point in time.
type when struct{ time.Time }

func (w *when) Set(text string) (err error) {
	w.Time, err = parseWhen(text, time.Now())
	return err
}

func (w *when) String() string {
	if w.IsZero() {
		return ""
	}
	return w.Format(time.RFC3339)
}

func (w *when) Type() string { return "time" }

// parseWhen reads a point in time, in now's zone unless the text names another.
func parseWhen(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", time.DateTime, "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04", time.TimeOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	if age, err := parseAge(text); err == nil {
		return now.Add(-age), nil
	}
	return time.Time{}, fmt.Errorf("time %q: want %s", text, whenUsage)
}

const ageUsage = "want an age such as 90m, 36h, 3d or 2w"

// age is a flag: a duration.
type age struct{ time.Duration }

func (a *age) Set(text string) (err error) {
	a.Duration, err = parseAge(text)
	return err
}

func (a *age) String() string {
	if a.Duration == 0 {
		return ""
	}
	return a.Duration.String()
}

func (a *age) Type() string { return "age" }

var weeksAndDays = regexp.MustCompile(`^(?:(\d{1,9})w)?(?:(\d{1,9})d)?(.*)$`)

// parseAge reads a duration in Go's syntax, which may begin with weeks and days.
func parseAge(text string) (time.Duration, error) {
	bad := fmt.Errorf("age %q: %s", text, ageUsage)
	part := weeksAndDays.FindStringSubmatch(text)
	if part == nil || text == "" || strings.ContainsAny(text, "+-") {
		return 0, bad
	}
	weeks, _ := strconv.ParseInt("0"+part[1], 10, 64)
	days, _ := strconv.ParseInt("0"+part[2], 10, 64)
	var rest time.Duration
	if part[3] != "" {
		var err error
		if rest, err = time.ParseDuration(part[3]); err != nil || rest < 0 {
			return 0, bad
		}
	}
	const most = math.MaxInt64 / int64(24*time.Hour) / 2
	if days += 7 * weeks; days > most || rest > math.MaxInt64/2 {
		return 0, errors.New(bad.Error() + " that is not longer than a century")
	}
	return time.Duration(days)*24*time.Hour + rest, nil
}

// at returns a point in time for people, without the day if it is now's day.
func at(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	t, now = t.Local(), now.Local()
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}
