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
	Unequal = "!=" // or nothing there
)

// Condition compares what stands at a path of a JSON payload, as text, with a
// value: user.id=42. A number is compared as it is written, so that 42 is not
// 42.0; true and false are words; null is as nothing there, which equals no
// value. A payload that is not JSON fulfils no condition.
type Condition struct {
	Path  []string // field names, and indexes of arrays, which begin with 0
	Op    string   // Equal or Unequal
	Value string
}

// Bounds of a condition, which is typed on command lines.
const (
	maxPath  = 20   // elements
	maxValue = 1000 // bytes
)

// ParseCondition reads PATH=VALUE or PATH!=VALUE, where PATH is of names with
// dots between them. The first operator counts: a value may contain any.
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

// String returns the condition as ParseCondition reads it.
func (c Condition) String() string { return strings.Join(c.Path, ".") + c.Op + c.Value }

// MarshalText implements encoding.TextMarshaler.
func (c Condition) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Condition) UnmarshalText(text []byte) (err error) {
	*c, err = ParseCondition(string(text))
	return err
}

// Validate reports what ParseCondition would not read.
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

// sqlitePath is the path as SQLite writes it.
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
