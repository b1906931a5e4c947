package sqldb

import (
	"fmt"
	"time"
)

// Time scans a time as either database returns it; NULL is the zero time.
type Time struct{ time.Time }

// SQLiteTime is how times stand in SQLite: UTC, of one width.
const SQLiteTime = "2006-01-02T15:04:05.000Z"

// Scan implements sql.Scanner.
func (t *Time) Scan(src any) error {
	var err error
	switch v := src.(type) {
	case nil:
		t.Time = time.Time{}
	case time.Time:
		t.Time = v.UTC()
	case string:
		t.Time, err = time.Parse(SQLiteTime, v)
	case []byte:
		t.Time, err = time.Parse(SQLiteTime, string(v))
	default:
		err = fmt.Errorf("cannot read %T as a time", src)
	}
	return err
}

// RoundUp returns the time, or the next one that is a multiple of the unit.
func RoundUp(t time.Time, unit time.Duration) time.Time {
	down := t.UTC().Truncate(unit)
	if down.Before(t) {
		return down.Add(unit)
	}
	return down
}
