package queue

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// ErrInstanceGone is returned by Heartbeat when other instances have found the instance
// dead. Its runs are due again, or leased to other instances.
var ErrInstanceGone = errors.New("the instance was found dead")

// NewInstanceID returns a unique id made of host, process id and a random part. It
// tells a reader of the tables where the instance runs.
func NewInstanceID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%06x", sqldb.Printable(host, sqldb.MaxName), os.Getpid(), rand.IntN(1<<24))
}

// served returns a list of handlers as JSON, as the database stores it.
func served(handlers []string) string {
	kept := make([]string, len(handlers))
	for i, name := range handlers {
		kept[i] = sqldb.Printable(name, 2*sqldb.MaxName+1) // a handler, or a handler and a topic
	}
	text, _ := json.Marshal(kept) // a list of strings always marshals
	return string(text)
}

// Register makes the instance known. Only a registered instance can claim runs.
// Register is idempotent, and counts as a heartbeat. HeartbeatInterval is 2 s and
// DeadAfter 10 s by default.
func (q *Queue) Register(ctx context.Context, i store.Instance) error {
	if err := sqldb.ValidName("instance", i.ID); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	handlers := served(i.Handlers)
	interval, deadAfter := cmp.Or(i.HeartbeatInterval, 2*time.Second), cmp.Or(i.DeadAfter, 10*time.Second)
	if _, err := q.db.ExecContext(ctx, q.db.SQL(register),
		i.ID, sqldb.Printable(i.Host, sqldb.MaxName), i.PID, sqldb.Printable(i.Build, sqldb.MaxName), handlers, interval.Seconds(), deadAfter.Seconds()); err != nil {
		return fmt.Errorf("register instance %s: %w", i.ID, err)
	}
	return nil
}

// A heartbeat of instance i is late when the previous one is older than half of its
// DeadAfter: the process, its machine or the database stood still, or the database's
// clock was set forward. Other instances may have stood still, too. A previous
// heartbeat more than 1 s in the future shows that the clock was set back, and counts
// as late, too.
const (
	late        = `now(-i.dead_after / 2)`
	steadySince = `CASE WHEN i.heartbeat_at < ` + late + ` OR i.heartbeat_at > now(1) THEN now() ELSE i.steady_since END`
)

// HeartbeatReport is what a heartbeat reports.
type HeartbeatReport struct {
	Holding  *Holding // nil leaves the stored value; else the instance must not claim or record meanwhile
	Failing  bool     // the instance cannot claim
	Handlers []string // what it serves, see store.Serving; nil leaves the stored value
}

// Holding is the runs that an instance holds: Runs, and possibly runs with an id above
// Recent, or above a higher Recent that was reported before.
type Holding struct {
	Runs   []int64
	Recent int64
}

// HeartbeatResult is what a heartbeat returns.
type HeartbeatResult struct {
	Claims int64 // the database's count of the instance's claims that leased runs
	Others bool  // other instances were silent for too long: Recover may have work
}

// Heartbeat reports that the instance is alive, or returns ErrInstanceGone. It reads
// only the table instances, so that a lock on another table does not make the instance
// look dead. conn is a connection of the pool that the caller keeps for heartbeats; nil
// takes a connection from the pool.
func (q *Queue) Heartbeat(ctx context.Context, conn *sql.Conn, id string, beat HeartbeatReport) (pulse HeartbeatResult, err error) {
	if !sqldb.Keepable(id) {
		return pulse, fmt.Errorf("%w: %.255q", ErrInstanceGone, id)
	}
	var lowest, recent, runs, handlers any
	if beat.Handlers != nil {
		handlers = served(beat.Handlers)
	}
	if beat.Holding != nil {
		bound := beat.Holding.Recent
		for _, run := range beat.Holding.Runs {
			bound = min(bound, run)
		}
		lowest, recent, runs = bound, beat.Holding.Recent, q.db.IDs(beat.Holding.Runs)
	}
	asJSON, asIDs := q.db.Casts()
	var found []HeartbeatResult
	ask := func(db sqldb.Queryer) error {
		return q.db.Query(ctx, db, q.db.SQL(`
		UPDATE reprise.instances AS i
		SET heartbeat_at = now(), steady_since = `+steadySince+`,
		    failing_since = CASE WHEN CAST($2 AS boolean) THEN coalesce(i.failing_since, now()) END,
		    lowest_run = coalesce(CAST($3 AS bigint), i.lowest_run),
		    recent_run = CASE WHEN CAST($4 AS bigint) > coalesce(i.recent_run, 0) THEN CAST($4 AS bigint) ELSE i.recent_run END,
		    held_runs = coalesce($5`+asIDs+`, i.held_runs),
		    handlers = coalesce($6`+asJSON+`, i.handlers)
		WHERE i.id = $1
		RETURNING claims, EXISTS (SELECT 1 FROM reprise.instances o WHERE o.id <> $1 AND (o.heartbeat_at < now(-o.dead_after) OR o.heartbeat_at > now(1)))`),
			[]any{id, beat.Failing, lowest, recent, runs, handlers}, func(rows *sql.Rows) error {
				found = nil
				for rows.Next() {
					var p HeartbeatResult
					if err := rows.Scan(&p.Claims, &p.Others); err != nil {
						return err
					}
					found = append(found, p)
				}
				return nil
			})
	}
	if conn == nil {
		err = ask(q.db.Pool())
	} else {
		err = q.db.OnConn(ctx, conn, ask)
	}
	if err != nil {
		return pulse, fmt.Errorf("heartbeat of instance %s: %w", id, err)
	}
	if len(found) == 0 {
		return pulse, fmt.Errorf("%w: %s", ErrInstanceGone, id)
	}
	return found[0], nil
}

// Survey is what an instance looks up from time to time.
type Survey struct {
	Newest        int64  `db:"newest"`        // highest id of a run; runs that are inserted later have higher ids
	Subscriptions string `db:"subscriptions"` // a text that changes when subscriptions come or go
	Uncounted     bool   `db:"uncounted"`     // CountFailures has work
}

// Survey reads the tables.
func (q *Queue) Survey(ctx context.Context) (found Survey, err error) {
	if err := q.db.GetContext(ctx, &found, q.db.Either(surveyPostgres, surveySQLite)); err != nil {
		return found, fmt.Errorf("look at the tables: %w", err)
	}
	q.db.NoteRun(found.Newest)
	return found, nil
}
