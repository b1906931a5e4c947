package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// figures are what a trial measured, or the medians of several. What the work does not measure
// is 0.
type figures struct {
	PerSec float64 `json:"per_sec,omitempty"` // events, handler runs, or statements
	P50    float64 `json:"p50_ms,omitempty"`
	P99    float64 `json:"p99_ms,omitempty"`
	PeakMB float64 `json:"peak_mb,omitempty"`
	Note   string  `json:"note,omitempty"`
}

// A trial is one system doing one work once.
type trial struct {
	system  *system
	cluster *cluster
	kafka   *broker // nil: there is none
	name    string  // of its database
	fresh   bool    // the database is empty
	db      *sql.DB // that database, beside the system's own connections
	n       int
	limit   time.Duration // for what is measured
}

// notOffered is why a system does not do a work here.
type notOffered string

func (n notOffered) Error() string { return string(n) }

func (t *trial) run(ctx context.Context, w *work) (f figures, err error) {
	if t.db, err = sql.Open("postgres", t.cluster.urlOf(t.name)); err != nil {
		return f, err
	}
	defer t.db.Close()
	if f, err = w.run(ctx, t); err != nil {
		return f, fmt.Errorf("%s of %s: %w", w.name, t.system.name, err)
	}
	f.Note = join(f.Note, t.system.notes[w.name])
	return f, nil
}

// spawn opens the trial's system in a new process.
func (t *trial) spawn(ctx context.Context, s setup) (*process, error) {
	line, err := t.system.command()
	if err != nil {
		return nil, notOffered(err.Error())
	}
	s.URL = t.cluster.urlOf(t.name)
	return spawn(ctx, line, s)
}

// backlog publishes n events in a process that then ends, and leaves the database as calm as one
// that has held them for a while.
func (t *trial) backlog(ctx context.Context, n int, s setup) error {
	p, err := t.spawn(ctx, s)
	if err != nil {
		return err
	}
	_, err = p.publish(ctx, load{Events: n, Batch: 1000, Callers: 1}, 0)
	p.close(ctx)
	if err != nil {
		return err
	}
	if _, err := t.db.ExecContext(ctx, "ANALYZE"); err != nil {
		return err
	}
	return t.cluster.checkpoint(ctx)
}

// rate is the figure of a trial that has done so many of those it wanted since start.
func (t *trial) rate(start time.Time, done, want int) figures {
	took := time.Since(start)
	f := figures{PerSec: float64(done) / took.Seconds()}
	if done < want {
		f.Note = fmt.Sprintf("stopped after %v, before the end", t.limit)
	}
	return f
}
