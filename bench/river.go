package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverPeer is River on pgx. It has no topics: an event for ten handlers is ten jobs, which the
// publisher inserts.
type riverPeer struct {
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx]
	jobs   int // for each event
}

type riverJob struct{ event }

func (riverJob) Kind() string { return "bench" }

type riverWorker struct {
	river.WorkerDefaults[riverJob]
	handle func(context.Context, event) error
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverJob]) error {
	return w.handle(ctx, job.Args.event)
}

func (w *riverWorker) NextRetry(*river.Job[riverJob]) time.Time { return time.Now().Add(retryAfter) }

func openRiver(ctx context.Context, s setup, handle func(context.Context, event) error) (peer, error) {
	conf, err := pgxpool.ParseConfig(s.URL)
	if err != nil {
		return nil, err
	}
	conf.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	// What River's own benchmark sets.
	rc := &river.Config{
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2000}},
		Workers:           river.NewWorkers(),
		Logger:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if s.Defaults {
		rc.FetchCooldown, rc.FetchPollInterval = 0, 0
		rc.Queues[river.QueueDefault] = river.QueueConfig{MaxWorkers: 100} // as in its documentation
	}
	if s.Concurrency > 0 {
		rc.Queues[river.QueueDefault] = river.QueueConfig{MaxWorkers: s.Concurrency}
	}
	if err := river.AddWorkerSafely(rc.Workers, &riverWorker{handle: handle}); err != nil {
		return nil, err
	}
	client, err := river.NewClient(riverpgxv5.New(pool), rc)
	if err != nil {
		return nil, err
	}
	return &riverPeer{pool: pool, client: client, jobs: max(1, s.Handlers)}, nil
}

func (p *riverPeer) Publish(ctx context.Context, events []event) error {
	if len(events)*p.jobs == 1 {
		_, err := p.client.Insert(ctx, riverJob{events[0]}, nil)
		return err
	}
	params := make([]river.InsertManyParams, 0, len(events)*p.jobs)
	for _, e := range events {
		for range p.jobs {
			params = append(params, river.InsertManyParams{Args: riverJob{e}})
		}
	}
	_, err := p.client.InsertManyFast(ctx, params)
	return err
}

func (p *riverPeer) Start(ctx context.Context) error { return p.client.Start(ctx) }

func (p *riverPeer) Unfinished(ctx context.Context) (more bool, err error) {
	err = p.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM river_job
		WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled'))`).Scan(&more)
	return more, err
}

func (p *riverPeer) Close(ctx context.Context) error {
	err := p.client.StopAndCancel(ctx)
	p.pool.Close()
	return err
}
