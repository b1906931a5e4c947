package schedule

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxText is how long an expression may be, in bytes. A list of all minutes has 169.
const maxText = 1000

// A field is one of the five of an expression.
type field struct {
	name     string
	min, max int
	names    []string // of the values from min on
	allowed  string   // for errors
}

const (
	dayOfMonth = "day of month"
	dayOfWeek  = "day of week"
)

var fields = [5]field{
	{name: "minute", max: 59, allowed: "0 to 59"},
	{name: "hour", max: 23, allowed: "0 to 23"},
	{name: dayOfMonth, min: 1, max: 31, allowed: "1 to 31, and L for the last day"},
	{
		name: "month", min: 1, max: 12, allowed: "1 to 12, and JAN to DEC",
		names: []string{"JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"},
	},
	{
		name: dayOfWeek, max: 7, allowed: "0 to 7 (0 and 7 are Sunday), SUN to SAT, FRI#2 for the second Friday of the month, and FRIL for the last",
		names: []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"},
	},
}

// parse parses a cron expression. Its errors continue a sentence that begins with the
// expression.
func parse(text string) (*expression, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("has %d bytes: want at most %d", len(text), maxText)
	}
	words := strings.Fields(text)
	e := &expression{text: strings.Join(words, " ")}
	if len(words) > 0 && strings.HasPrefix(words[0], "@") {
		expanded, err := expand(words)
		if err != nil {
			return nil, err
		}
		words = strings.Fields(expanded)
	}
	if len(words) > 0 && strings.Contains(words[0], "TZ=") {
		_, zone, _ := strings.Cut(words[0], "=")
		return nil, fmt.Errorf("has a zone inside: leave it out, and pass schedule.In(%s)", quoted(zone))
	}
	if len(words) != len(fields) {
		return nil, fmt.Errorf("has %d fields: want 5, minute, hour, day of month, month and day of week; there are no seconds (use schedule.Interval) and no years", len(words))
	}
	sets := [5]*uint64{&e.minute, &e.hour, &e.day, &e.month, &e.weekday}
	for i, f := range fields {
		for item := range strings.SplitSeq(words[i], ",") {
			if e.special(f, item) {
				continue
			}
			set, err := f.set(item)
			if err != nil {
				return nil, fmt.Errorf("has %s %s: %w; allowed are %s, * for all, lists (a,b), ranges (a-b) and steps (*/n, a-b/n)", f.name, quoted(words[i]), err, f.allowed)
			}
			*sets[i] |= set
		}
	}
	if has(e.weekday, 7) {
		e.weekday |= 1 // Sunday
	}
	e.wildcard = strings.HasPrefix(words[0], "*") || strings.HasPrefix(words[1], "*")
	e.bothDays = strings.HasPrefix(words[2], "*") || strings.HasPrefix(words[4], "*")
	if !e.everDue() {
		return nil, neverDue(words)
	}
	return e, nil
}

// expand returns the five fields that a name such as @daily stands for.
func expand(words []string) (string, error) {
	if len(words) == 1 {
		switch strings.ToLower(words[0]) {
		case "@hourly":
			return "0 * * * *", nil
		case "@daily", "@midnight":
			return "0 0 * * *", nil
		case "@weekly":
			return "0 0 * * 0", nil
		case "@monthly":
			return "0 0 1 * *", nil
		case "@yearly", "@annually":
			return "0 0 1 1 *", nil
		}
	}
	switch strings.ToLower(words[0]) {
	case "@every":
		return "", errors.New("is an interval: use schedule.Interval, such as schedule.Interval(90*time.Minute)")
	case "@reboot":
		return "", errors.New("is no time: publish where the application starts")
	}
	return "", errors.New("is not a known name: want @hourly, @daily, @midnight, @weekly, @monthly, @yearly or @annually alone, or five fields")
}

// special adds an item with L or # to the expression. It reports whether the item is one.
func (e *expression) special(f field, item string) bool {
	item = strings.ToUpper(item)
	if f.name == dayOfMonth && item == "L" {
		e.lastDay = true
		return true
	}
	if f.name != dayOfWeek {
		return false
	}
	if name, ok := strings.CutSuffix(item, "L"); ok {
		if weekday, err := f.value(name); err == nil {
			e.last[weekday%7] = true
			return true
		}
	}
	if name, nth, ok := strings.Cut(item, "#"); ok {
		weekday, err := f.value(name)
		if err == nil && len(nth) == 1 && "1" <= nth && nth <= "5" {
			e.nth[weekday%7] |= 1 << (nth[0] - '0')
			return true
		}
	}
	return false
}

// set returns the values of an item of a list: *, a value, a range or a step.
func (f field) set(item string) (uint64, error) {
	span, stepText, stepped := strings.Cut(item, "/")
	first, last, isRange := strings.Cut(span, "-")
	low, high, step := f.min, f.max, 1
	var err error
	if span != "*" {
		if low, err = f.value(first); err != nil {
			return 0, err
		}
		high = low
	}
	if isRange {
		if high, err = f.value(last); err != nil {
			return 0, err
		}
		if high == 0 && f.name == dayOfWeek && low > 0 {
			high = 7 // FRI-SUN
		}
	}
	if low > high {
		return 0, fmt.Errorf("the range %s ends before it begins: write %s-%d,%d-%s", quoted(item), first, f.max, f.min, last)
	}
	if stepped {
		if step, err = number(stepText); err != nil || step < 1 || step > f.max {
			return 0, fmt.Errorf("the step of %s is not one of 1 to %d", quoted(item), f.max)
		}
		if !isRange && span != "*" {
			return 0, fmt.Errorf("the step %s has no range: write %s-%d/%d", quoted(item), first, f.max, step)
		}
	}
	var set uint64
	for n := low; n <= high; n += step {
		set |= 1 << n
	}
	return set, nil
}

// value returns the value of a number or a name.
func (f field) value(text string) (int, error) {
	for i, name := range f.names {
		if strings.EqualFold(text, name) {
			return f.min + i, nil
		}
	}
	n, err := number(text)
	switch upper := strings.ToUpper(text); {
	case err == nil && n >= f.min && n <= f.max:
		return n, nil
	case text == "":
		return 0, errors.New("a value is missing")
	case text == "?":
		return 0, errors.New("write * instead of ?")
	case strings.Contains(upper, "W") && f.name == dayOfMonth:
		return 0, fmt.Errorf("%s is not allowed: there is no W, the nearest weekday", quoted(text))
	case strings.Contains(upper, "L") && f.name == dayOfMonth:
		return 0, fmt.Errorf("%s is not allowed: L stands alone or in a list, such as 15,L", quoted(text))
	case upper == "L" && f.name == dayOfWeek:
		return 0, errors.New("write SAT for each Saturday, or SATL for the last of the month")
	case strings.Contains(text, "#") && f.name == dayOfWeek:
		return 0, fmt.Errorf("%s is not allowed: a day with # stands alone or in a list, and is its first to fifth, such as MON#1,MON#3", quoted(text))
	case len(text) > 3 && f.names != nil:
		return 0, fmt.Errorf("%s is not allowed: names have three letters, such as %s", quoted(text), f.names[0])
	}
	return 0, fmt.Errorf("%s is not allowed", quoted(text))
}

// number returns the value of a text of digits.
func number(text string) (int, error) {
	if strings.Trim(text, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(text)
}

// everDue reports whether any day of the calendar matches. The calendar repeats every 400
// years.
func (e *expression) everDue() bool {
	cycle := time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)
	_, ok := e.first(cycle, cycle.AddDate(400, 0, 0))
	return ok
}

func neverDue(words []string) error {
	weekday := ""
	if words[4] != "*" {
		weekday = " that is day of week " + quoted(words[4])
	}
	return fmt.Errorf("is never due: no year has day of month %s in month %s%s", quoted(words[2]), quoted(words[3]), weekday)
}

// quoted quotes a text for an error. It cuts a long one.
func quoted(text string) string {
	const longest = 100
	if len(text) > longest {
		return strconv.Quote(text[:longest]) + "…"
	}
	return strconv.Quote(text)
}
