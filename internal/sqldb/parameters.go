package sqldb

import (
	"encoding/json"
	"fmt"
	"regexp"
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

// IDs returns a list of runs as the database stores it, and as a parameter.
func (d *DB) IDs(runs []int64) any {
	if d.kind == dialect.Postgres {
		return append(pq.Int64Array{}, runs...)
	}
	return jsonArray(runs)
}

// Texts returns a list of texts as a parameter.
func (d *DB) Texts(texts []string) any {
	if d.kind == dialect.Postgres {
		return append(pq.StringArray{}, texts...)
	}
	return jsonArray(texts)
}

func jsonArray[T int64 | string](list []T) string {
	text, _ := json.Marshal(append([]T{}, list...)) // numbers and strings always marshal
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

var row = regexp.MustCompile(`\(\?(?:, \?)*\)`)

// Rows returns the statement of SQLite with its row of parameters, (?, ?), n times.
func Rows(statement string, n int) string {
	at := row.FindStringIndex(statement)
	return statement[:at[1]] + strings.Repeat(", "+statement[at[0]:at[1]], n-1) + statement[at[1]:]
}

// Parameters returns n parameters in parentheses, starting at $first.
func Parameters(first, n int) string {
	marks := make([]string, n)
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", first+i)
	}
	return "(" + strings.Join(marks, ", ") + ")"
}
