package sqldb

import (
	"fmt"
	"strings"
)

// Conditions are fixed texts that select rows, with their parameters.
type Conditions struct {
	indexed []string // conditions that an index offers in order
	Rest    []string // conditions on the rows that indexed selects
	Args    []any    // the parameters of indexed come first
	offered int      // number of parameters of indexed
}

// Arg adds a parameter and returns its placeholder.
func (c *Conditions) Arg(value any) string {
	c.Args = append(c.Args, value)
	return fmt.Sprintf("$%d", len(c.Args))
}

// Format inserts the placeholders of the values into a fixed text.
func (c *Conditions) Format(text string, values ...any) string {
	marks := make([]any, len(values))
	for i, v := range values {
		marks[i] = c.Arg(v)
	}
	return fmt.Sprintf(text, marks...)
}

// Index adds a condition that an index offers.
func (c *Conditions) Index(text string, values ...any) {
	c.indexed = append(c.indexed, c.Format(text, values...))
	c.offered = len(c.Args)
}

// And adds any other condition.
func (c *Conditions) And(text string, values ...any) {
	c.Rest = append(c.Rest, c.Format(text, values...))
}

// Look returns only the conditions that an index offers, with their parameters.
func (c *Conditions) Look() (where string, args []any) {
	return Conjunction(c.indexed), c.Args[:c.offered:c.offered]
}

// Where returns all conditions.
func (c *Conditions) Where() string {
	return Conjunction(append(c.indexed[:len(c.indexed):len(c.indexed)], c.Rest...))
}

// Conjunction joins conditions with AND.
func Conjunction(conditions []string) string {
	if len(conditions) == 0 {
		return `true`
	}
	return strings.Join(conditions, ` AND `)
}
