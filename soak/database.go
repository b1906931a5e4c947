package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"github.com/reprise-bus/reprise/internal/database"
	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/pgserver"
)

// target is the database under test as this program sees it: directly, past
// the proxies.
type target struct {
	kind   dialect.Kind
	url    string
	db     *sql.DB
	server *pgserver.Server // nil when the server is not ours
	drop   func() error     // removes what was made on a server that is not ours
}

// german are the settings of a server that few programs were tried on.
var german = []string{"lc_messages=de_DE.UTF-8", "default_transaction_isolation=serializable", "timezone=Asia/Kolkata", "DateStyle=German, DMY"}

// openDatabase returns a pool of a few connections.
func openDatabase(rawURL string) (*sql.DB, error) {
	db, err := database.Open(rawURL)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(10) // the audit reads six tables at once, also of SQLite
	return db, nil
}

// openTarget makes the database under test: a server of our own, a new database
// on the given one, or a file.
func openTarget(ctx context.Context, o options, dir string) (t *target, err error) {
	t = &target{kind: dialect.Postgres, url: o.url, drop: func() error { return nil }}
	switch {
	case o.database == "sqlite":
		t.kind, t.url = dialect.SQLite, "sqlite:"+filepath.Join(dir, "soak.db")
	case o.url == "":
		bin, err := pgserver.Find()
		if err != nil {
			return nil, fmt.Errorf("%w; or give -url a server that runs", err)
		}
		settings := []string{"max_connections=400"}
		if o.server == "german" {
			settings = append(settings, german...)
		}
		if t.server, err = pgserver.Start(ctx, bin, settings...); err != nil {
			return nil, err
		}
		t.url = t.server.URL
	default:
		if err := t.createDatabase(ctx); err != nil {
			return nil, err
		}
	}
	own := t.url
	if o.server == "german" {
		own += "&default_transaction_isolation=read+committed" // the audit's reads are not what is tested
	}
	if t.db, err = openDatabase(own); err != nil {
		return nil, errors.Join(err, t.drop())
	}
	if err := makeTables(ctx, t.db); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// createDatabase makes a database of our own on a server that is given.
func (t *target) createDatabase(ctx context.Context) error {
	server := t.url
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return errors.New("-url is not of the form postgres://user@host:port/database")
	}
	var suffix [4]byte
	_, _ = rand.Read(suffix[:]) // never fails
	name := "soak_" + hex.EncodeToString(suffix[:])
	if err := execOnce(ctx, server, `CREATE DATABASE `+name); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	u.Path = "/" + name
	t.url = u.String()
	t.drop = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return execOnce(ctx, server, `DROP DATABASE `+name+` WITH (FORCE)`)
	}
	return nil
}

func execOnce(ctx context.Context, url, statement string) error {
	db, err := openDatabase(url)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, statement)
	return errors.Join(err, db.Close())
}

func (t *target) close() error { return errors.Join(t.db.Close(), t.drop()) }

// through is the database's URL by way of a proxy.
func (t *target) through(p *proxy) (string, error) {
	u, err := url.Parse(t.url)
	if err != nil {
		return "", err
	}
	u.Host = p.address
	return u.String(), nil
}

// upstream is the server's address.
func (t *target) upstream() (string, error) {
	u, err := url.Parse(t.url)
	if err != nil {
		return "", err
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "5432"), nil
	}
	return u.Host, nil
}

// ask reads numbers from the database, about Reprise's tables and ours.
func (t *target) ask(ctx context.Context, query string, numbers ...any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return t.db.QueryRowContext(ctx, t.kind.Qualify(dialect.DefaultSchema, query)).Scan(numbers...)
}

// each passes the rows of a query about Reprise's tables and ours to f.
func (t *target) each(ctx context.Context, query string, f func(scan func(...any) error) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	rows, err := t.db.QueryContext(ctx, t.kind.Qualify(dialect.DefaultSchema, query))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// instances returns the processes that are registered, by pid.
func (t *target) instances(ctx context.Context) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	rows, err := t.db.QueryContext(ctx, t.kind.Qualify(dialect.DefaultSchema, `SELECT id, pid FROM reprise.instances`))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string]int{}
	for rows.Next() {
		var id string
		var pid int
		if err := rows.Scan(&id, &pid); err != nil {
			return nil, err
		}
		all[id] = pid
	}
	return all, rows.Err()
}

// stuck describes some runs that do not end.
func (t *target) stuck(ctx context.Context) ([]string, error) {
	rows, err := t.db.QueryContext(ctx, t.kind.Qualify(dialect.DefaultSchema, `
		SELECT r.id, r.handler, r.attempt, r.tries, coalesce(CAST(r.due_at AS text), '-'), coalesce(r.instance, '-'), coalesce(r.error_kind, '-'),
		       (SELECT count(*) FROM reprise.instances i WHERE i.id = r.instance)
		FROM reprise.handler_runs r WHERE r.status = 'PENDING' ORDER BY r.id LIMIT 20`))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var (
			id                        int64
			attempt, tries, instances int
			handler, due, inst, kind  string
		)
		if err := rows.Scan(&id, &handler, &attempt, &tries, &due, &inst, &kind, &instances); err != nil {
			return nil, err
		}
		all = append(all, fmt.Sprintf("run %d of %s is PENDING: attempt %d, try %d, due %s, held by %s (known: %v), last failure %s",
			id, handler, attempt, tries, due, inst, instances > 0, kind))
	}
	return all, rows.Err()
}
