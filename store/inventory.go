package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Instance is one running process of the application.
type Instance struct {
	ID       string
	Host     string
	PID      int
	Build    string   // version of the application, if the binary has it
	Handlers []string // the handlers that it serves: see Serving

	// The configuration of the process. Every process uses these two values to decide
	// whether the instance is alive. The defaults are 2 s and 10 s.
	HeartbeatInterval time.Duration
	DeadAfter         time.Duration // of silence
}

// Subscribed is a subscription as it stands in the database.
type Subscribed struct {
	Subscription
	Policy     json.RawMessage // the policy that its handler was last registered with
	Since      time.Time
	LastSeenAt time.Time // when a process last registered it
	Instances  int       // how many instances serve it
	Due        Count     // runs that are due
	OldestDue  time.Time // when the first of them became due; zero without a due run
}

// Subscriptions returns all subscriptions with their due runs, by topic and handler.
// Due counts up to MaxCount.
func (s *Store) Subscriptions(ctx context.Context) ([]Subscribed, error) {
	instances, err := s.Instances(ctx)
	if err != nil {
		return nil, err
	}
	var rows []struct {
		Topic   string     `db:"topic"`
		Handler string     `db:"handler"`
		Policy  []byte     `db:"policy"`
		Since   sqldb.Time `db:"since"`
		Seen    sqldb.Time `db:"last_seen_at"`
		Due     int64      `db:"due"`
		Oldest  sqldb.Time `db:"oldest"`
	}
	// The LIMIT is a literal: for a parameter, PostgreSQL's planner assumed a tenth of
	// the table and read the whole table for each subscription.
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(fmt.Sprintf(`
		SELECT s.topic, s.handler, s.policy, s.since, s.last_seen_at,
		       (SELECT min(r.due_at) FROM reprise.handler_runs r
		        WHERE r.topic = s.topic AND r.handler = s.handler AND r.due_at IS NOT NULL AND r.due_at <= now()) AS oldest,
		       (SELECT count(*) FROM (
		                SELECT 1 FROM reprise.handler_runs r
		                WHERE r.topic = s.topic AND r.handler = s.handler AND r.due_at IS NOT NULL AND r.due_at <= now()
		                ORDER BY r.due_at, r.id
		                LIMIT %d) r) AS due
		FROM reprise.subscriptions s ORDER BY s.topic, s.handler`, MaxCount+1))); err != nil {
		return nil, fmt.Errorf("list subscriptions: %w", err)
	}
	subscribed := make([]Subscribed, len(rows))
	for i, r := range rows {
		subscribed[i] = Subscribed{
			Subscription: Subscription{Topic: r.Topic, Handler: r.Handler}, Policy: r.Policy,
			Since: r.Since.Time, LastSeenAt: r.Seen.Time, OldestDue: r.Oldest.Time,
			Due: Count{N: min(r.Due, MaxCount), More: r.Due > MaxCount},
		}
		for _, in := range instances {
			if in.Serves(subscribed[i].Subscription) {
				subscribed[i].Instances++
			}
		}
	}
	return subscribed, nil
}

// InstanceState is an instance as it stands in the database. Its Handlers contain names
// only; see Serves.
type InstanceState struct {
	Instance
	serving   []string // as Serving returns them
	StartedAt time.Time
	Silence   time.Duration // since its last heartbeat, by the database's clock
	Failing   time.Duration // how long it has been unable to claim; 0 when it can
}

// Alive reports whether the last heartbeat is at most DeadAfter old.
func (l *InstanceState) Alive() bool { return l.Silence <= l.DeadAfter }

// Stuck reports whether the instance is alive but has been unable to claim for longer
// than its DeadAfter: its handlers get no due run.
func (l *InstanceState) Stuck() bool { return l.Alive() && l.Failing > l.DeadAfter }

// Instances returns all instances that are not forgotten, the earliest started first.
func (s *Store) Instances(ctx context.Context) ([]InstanceState, error) {
	var rows []struct {
		ID       string     `db:"id"`
		Host     string     `db:"host"`
		PID      int        `db:"pid"`
		Build    string     `db:"build"`
		Handlers []byte     `db:"handlers"`
		Started  sqldb.Time `db:"started_at"`
		Beat     sqldb.Time `db:"heartbeat_at"`
		Failing  sqldb.Time `db:"failing_since"`
		Interval float64    `db:"heartbeat_interval"`
		Dead     float64    `db:"dead_after"`
		Now      sqldb.Time `db:"now"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.db.SQL(`
		SELECT id, host, pid, build, handlers, started_at, heartbeat_at, failing_since, heartbeat_interval, dead_after, now() AS now FROM reprise.instances ORDER BY started_at, id`)); err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	living := make([]InstanceState, len(rows))
	for i, r := range rows {
		living[i] = InstanceState{
			Instance: Instance{
				ID: r.ID, Host: r.Host, PID: r.PID, Build: r.Build, HeartbeatInterval: seconds(r.Interval), DeadAfter: seconds(r.Dead),
			},
			StartedAt: r.Started.Time, Silence: r.Now.Sub(r.Beat.Time),
		}
		if !r.Failing.IsZero() {
			living[i].Failing = r.Now.Sub(r.Failing.Time)
		}
		if err := json.Unmarshal(r.Handlers, &living[i].serving); err != nil {
			return nil, fmt.Errorf("instance %s: handlers in the database: %w", r.ID, err)
		}
		for _, entry := range living[i].serving {
			if !strings.Contains(entry, separator) {
				living[i].Handlers = append(living[i].Handlers, entry)
			}
		}
	}
	return living, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Clock returns the database's time.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	var now sqldb.Time
	if err := s.db.GetContext(ctx, &now, s.db.SQL(`SELECT now() AS now`)); err != nil {
		return time.Time{}, fmt.Errorf("read the database's clock: %w", err)
	}
	return now.Time, nil
}

// TableSize is the size of a table by the database's statistics.
type TableSize struct {
	Table     string `db:"name"`
	Rows      int64  `db:"live"`
	Dead      int64  `db:"dead"`  // row versions that wait for a vacuum
	Bytes     int64  `db:"bytes"` // including its indexes
	Vacuuming bool   `db:"vacuuming"`
}

// Sizes returns the sizes of Reprise's tables. On PostgreSQL they come from its
// statistics and are estimates. On SQLite, which keeps no such statistics, Sizes
// returns nothing.
func (s *Store) Sizes(ctx context.Context) (sizes []TableSize, err error) {
	if s.db.Kind() == dialect.SQLite {
		return nil, nil
	}
	err = s.db.SelectContext(ctx, &sizes, `
		SELECT relname AS name, n_live_tup AS live, n_dead_tup AS dead, pg_total_relation_size(relid) AS bytes,
		       EXISTS (SELECT 1 FROM pg_stat_progress_vacuum v WHERE v.relid = t.relid) AS vacuuming
		FROM pg_stat_user_tables t WHERE schemaname = $1 ORDER BY relname`, s.db.Schema())
	if err != nil {
		return nil, fmt.Errorf("read the sizes of the tables: %w", err)
	}
	return sizes, nil
}
