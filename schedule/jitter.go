package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// Jitter returns how long after a tick a schedule is due, so that schedules with equal
// ticks do not all begin at once: a whole number of milliseconds, at least 0 and less than
// the width. It depends on the schedule's name and the tick only, so that all processes
// agree.
func Jitter(name string, tick time.Time, width time.Duration) time.Duration {
	if width < time.Millisecond {
		return 0
	}
	hash := sha256.Sum256(fmt.Appendf(nil, "%d %s", tick.UnixMilli(), name))
	return time.Duration(binary.BigEndian.Uint64(hash[:])%uint64(width.Milliseconds())) * time.Millisecond
}
