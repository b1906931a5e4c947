package main

import (
	"sync"
	"time"
)

// outages remembers when the database was last out of somebody's reach.
type outages struct {
	mu    sync.Mutex
	now   int // under way
	until time.Time
}

// during marks an outage for as long as f takes.
func (o *outages) during(f func() error) error {
	o.mu.Lock()
	o.now++
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.now--
		o.until = time.Now()
		o.mu.Unlock()
	}()
	return f()
}

// since says whether there was an outage at any time from t on.
func (o *outages) since(t time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now > 0 || o.until.After(t)
}
