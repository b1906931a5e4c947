package store

import (
	"fmt"
	"time"
)

// instant scans a time as either database returns it; NULL is the zero time.
type instant struct{ time.Time }

// sqliteTime is how times stand in SQLite: UTC, of one width.
const sqliteTime = "2006-01-02T15:04:05.000Z"

// Scan implements sql.Scanner.
func (i *instant) Scan(src any) error {
	var err error
	switch v := src.(type) {
	case nil:
		i.Time = time.Time{}
	case time.Time:
		i.Time = v.UTC()
	case string:
		i.Time, err = time.Parse(sqliteTime, v)
	case []byte:
		i.Time, err = time.Parse(sqliteTime, string(v))
	default:
		err = fmt.Errorf("cannot read %T as a time", src)
	}
	return err
}

func roundUp(t time.Time, unit time.Duration) time.Time {
	down := t.UTC().Truncate(unit)
	if down.Before(t) {
		return down.Add(unit)
	}
	return down
}
