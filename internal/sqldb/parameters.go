package sqldb

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Casts returns what a parameter needs that is JSON, or a list of runs: some drivers
// send it as a text.
func (d *DB) Casts() (asJSON, asIDs string) {
	if d.kind == dialect.Postgres {
		return `::json`, `::bigint[]`
	}
	return "", ""
}

// IDs is a list of runs as the database keeps it.
func (d *DB) IDs(runs []int64) any {
	if d.kind == dialect.Postgres {
		return append(pq.Int64Array{}, runs...)
	}
	text, _ := json.Marshal(append([]int64{}, runs...)) // numbers always marshal
	return string(text)
}

// Clock is a second after the moment at which it is read: now() may be that of a
// transaction which has stood still.
func (d *DB) Clock() string {
	if d.kind == dialect.Postgres {
		return `clock_timestamp() + interval '1 second'`
	}
	return `now(1)`
}

// Time is a point in time as the database compares it, rounded up to the
// database's precision: what it keeps is before t, or not, either way.
func (d *DB) Time(t time.Time) any {
	if d.kind == dialect.SQLite {
		return RoundUp(t, time.Millisecond).Format(SQLiteTime)
	}
	return RoundUp(t, time.Microsecond)
}

// BytesOf is the length of an expression of type json or text, in bytes.
func (d *DB) BytesOf(text string) string {
	if d.kind == dialect.SQLite {
		return `octet_length(` + text + `)`
	}
	return `octet_length(` + text + `::text)`
}

// PayloadBytes is how large the payload of row r is.
func (d *DB) PayloadBytes(r string) string {
	return `coalesce(` + d.BytesOf(r+`.payload`) + `, length(` + r + `.payload_bytes))`
}

// Placeholders returns rows of (?,?,…).
func Placeholders(rows, columns int) string {
	row := "(" + strings.TrimSuffix(strings.Repeat("?,", columns), ",") + ")"
	return strings.TrimSuffix(strings.Repeat(row+",", rows), ",")
}

// Parameters returns ($first, …), n of them.
func Parameters(first, n int) string {
	marks := make([]string, n)
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", first+i)
	}
	return "(" + strings.Join(marks, ", ") + ")"
}
