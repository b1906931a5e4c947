package store

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// The operators of a Condition.
const (
	Equal   = "="
	Unequal = "!=" // true also where the path has no value
)

// Condition compares the value at a path of a JSON payload, as text, with Value:
// user.id=42. A number is compared as it is written: 42 is not 42.0. Booleans are the
// words true and false. null counts as absent, and equals no Value. A payload that is
// not JSON fulfils no condition.
type Condition struct {
	Path  []string // field names, and indexes of arrays starting at 0
	Op    string   // Equal or Unequal
	Value string
}

// The limits of a condition, which is typed on command lines.
const (
	maxPath  = 20   // elements
	maxValue = 1000 // bytes
)

// ParseCondition reads PATH=VALUE or PATH!=VALUE. PATH is field names separated by
// dots. The first operator counts; the value may contain others.
func ParseCondition(text string) (Condition, error) {
	path, value, found := strings.Cut(text, "=")
	c := Condition{Op: Equal, Value: value}
	if before, unequal := strings.CutSuffix(path, "!"); unequal {
		path, c.Op = before, Unequal
	}
	c.Path = strings.Split(path, ".")
	if !found {
		return c, fmt.Errorf("payload condition %.255q: want PATH=VALUE or PATH!=VALUE, such as user.id=42", text)
	}
	return c, c.Validate()
}

// String returns the condition in the form that ParseCondition reads.
func (c Condition) String() string { return strings.Join(c.Path, ".") + c.Op + c.Value }

// MarshalText implements encoding.TextMarshaler.
func (c Condition) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Condition) UnmarshalText(text []byte) (err error) {
	*c, err = ParseCondition(string(text))
	return err
}

// Validate reports a condition that ParseCondition would refuse.
func (c Condition) Validate() error {
	fail := func(why string) error { return fmt.Errorf("payload condition %.255q: %s", c.String(), why) }
	switch {
	case c.Op != Equal && c.Op != Unequal:
		return fail("want the operator = or !=")
	case len(c.Path) == 0:
		return fail("want a path, such as user.id=42")
	case len(c.Path) > maxPath:
		return fail(fmt.Sprintf("want at most %d names in the path", maxPath))
	case len(c.Value) > maxValue:
		return fail(fmt.Sprintf("want a value of at most %d bytes", maxValue))
	case !utf8.ValidString(c.Value) || strings.ContainsRune(c.Value, 0):
		return fail("want a value in valid UTF-8")
	}
	for _, element := range c.Path {
		if err := validElement(element); err != nil {
			return fail(err.Error())
		}
	}
	return nil
}

func validElement(element string) error {
	switch {
	case element == "":
		return errors.New("a name in the path is empty")
	case strings.ContainsAny(element, `.=!"\`):
		return fmt.Errorf(`the name %.255q in the path: want none of . = ! " \ in it`, element)
	}
	return sqldb.ValidName("a name in the path", element)
}

// sqlitePath returns the path in SQLite's syntax.
func (c Condition) sqlitePath() string {
	var path strings.Builder
	path.WriteByte('$')
	for _, element := range c.Path {
		if n, err := strconv.ParseUint(element, 10, 31); err == nil && strconv.FormatUint(n, 10) == element {
			fmt.Fprintf(&path, "[%s]", element)
			continue
		}
		fmt.Fprintf(&path, `."%s"`, element)
	}
	return path.String()
}
