package sqldb

import (
	"fmt"
	"time"
)

// Time scans a time of either database. NULL is the zero time.
type Time struct{ time.Time }

// SQLiteTime is the format of times in SQLite: UTC, of fixed width.
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

// RoundUp returns t if it is a multiple of the unit, or else the next multiple.
func RoundUp(t time.Time, unit time.Duration) time.Time {
	down := t.UTC().Truncate(unit)
	if down.Before(t) {
		return down.Add(unit)
	}
	return down
}
