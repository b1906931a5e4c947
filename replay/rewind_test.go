package replay

import "time"

// Rewind makes the watch as old as if it had begun and last looked that much earlier.
func (w *Watch) Rewind(d time.Duration) {
	w.began, w.looked = w.began.Add(-d), w.looked.Add(-d)
}
