package sqldb

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Casts returns the casts of a parameter that is JSON, and of a list of runs. Some
// drivers send these parameters as text.
func (d *DB) Casts() (asJSON, asIDs string) {
	if d.kind == dialect.Postgres {
		return `::json`, `::bigint[]`
	}
	return "", ""
}

// IDs returns a list of runs as the database stores it.
func (d *DB) IDs(runs []int64) any {
	if d.kind == dialect.Postgres {
		return append(pq.Int64Array{}, runs...)
	}
	text, _ := json.Marshal(append([]int64{}, runs...)) // numbers always marshal
	return string(text)
}

// Clock returns the expression for 1 s after the moment at which it is evaluated. now()
// may be the start of a transaction that has stood still.
func (d *DB) Clock() string {
	if d.kind == dialect.Postgres {
		return `clock_timestamp() + interval '1 second'`
	}
	return `now(1)`
}

// Time returns a point in time as a parameter, rounded up to the database's precision.
// A stored time compares with it as with t.
func (d *DB) Time(t time.Time) any {
	if d.kind == dialect.SQLite {
		return RoundUp(t, time.Millisecond).Format(SQLiteTime)
	}
	return RoundUp(t, time.Microsecond)
}

// BytesOf returns the expression for the length, in bytes, of an expression of type
// json or text.
func (d *DB) BytesOf(text string) string {
	if d.kind == dialect.SQLite {
		return `octet_length(` + text + `)`
	}
	return `octet_length(` + text + `::text)`
}

// PayloadBytes returns the expression for the size of the payload of row r.
func (d *DB) PayloadBytes(r string) string {
	return `coalesce(` + d.BytesOf(r+`.payload`) + `, length(` + r + `.payload_bytes))`
}

// Placeholders returns rows of the form (?,?,…).
func Placeholders(rows, columns int) string {
	row := "(" + strings.TrimSuffix(strings.Repeat("?,", columns), ",") + ")"
	return strings.TrimSuffix(strings.Repeat(row+",", rows), ",")
}

// Parameters returns n parameters in parentheses, starting at $first.
func Parameters(first, n int) string {
	marks := make([]string, n)
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", first+i)
	}
	return "(" + strings.Join(marks, ", ") + ")"
}
