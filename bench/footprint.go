package main

import (
	"context"
	"errors"
	"time"
)

// peakMemory measures the process that drains, not the one that published.
func peakMemory(ctx context.Context, t *trial) (f figures, err error) {
	s := setup{Handlers: 1}
	if err := t.backlog(ctx, t.n, s); err != nil {
		return f, err
	}
	p, err := t.spawn(ctx, s)
	if err != nil {
		return f, err
	}
	defer p.close(ctx)
	start := time.Now()
	if err := p.start(ctx); err != nil {
		return f, err
	}
	done, err := p.settle(ctx, t.n, t.limit)
	if err != nil {
		return f, err
	}
	f = t.rate(start, done, t.n)
	f.PeakMB, err = p.peak()
	if errors.Is(err, errNoPeak) {
		return f, notOffered(err.Error())
	}
	return f, err
}

const (
	idleRest   = 12 * time.Second // what a start does is over, and Postgres has counted it: that takes 10 s
	idleWindow = 10 * time.Second
)

// idle counts what the database is asked while nothing happens.
func idle(ctx context.Context, t *trial) (f figures, err error) {
	p, err := t.spawn(ctx, setup{Handlers: t.n, Defaults: true})
	if err != nil {
		return f, err
	}
	defer p.close(ctx)
	if err := p.start(ctx); err != nil {
		return f, err
	}
	count, unit, err := t.counter(ctx)
	if err != nil {
		return f, err
	}
	if err := pause(ctx, idleRest); err != nil {
		return f, err
	}
	before, err := count(ctx)
	if err != nil {
		return f, err
	}
	start := time.Now()
	if err := pause(ctx, idleWindow); err != nil {
		return f, err
	}
	after, err := count(ctx)
	if err != nil {
		return f, err
	}
	return figures{PerSec: float64(after-before) / time.Since(start).Seconds(), Note: unit + " counted"}, nil
}

// counter returns how to count what the trial's database has executed: statements where
// pg_stat_statements is loaded, otherwise transactions, of which a lone statement is one.
func (t *trial) counter(ctx context.Context) (count func(context.Context) (int64, error), unit string, err error) {
	var loaded bool
	err = t.db.QueryRowContext(ctx, `SELECT current_setting('shared_preload_libraries') LIKE '%pg_stat_statements%'
		AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements')`).Scan(&loaded)
	if err != nil {
		return nil, "", err
	}
	// Another database's connection, whose own transactions are not counted.
	db, unit, query := t.cluster.db, "transactions", `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1`
	if loaded {
		if _, err := t.db.ExecContext(ctx, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"); err != nil {
			return nil, "", err
		}
		db, unit, query = t.db, "statements", `SELECT coalesce(sum(s.calls), 0)::bigint FROM pg_stat_statements s
			JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = $1 AND s.query NOT LIKE '%pg_stat_statements%'`
	}
	return func(ctx context.Context) (n int64, err error) {
		err = db.QueryRowContext(ctx, query, t.name).Scan(&n)
		return n, err
	}, unit, nil
}
