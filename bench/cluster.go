package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/lib/pq"
)

// A cluster is the Postgres server that all systems share, each on databases of its own.
type cluster struct {
	url *url.URL
	db  *sql.DB // on the database that url names, in which nothing is written
}

func connect(ctx context.Context, rawURL string) (*cluster, error) {
	u, err := url.Parse(rawURL)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return nil, errors.New("the database URL is not of the form postgres://user@host:port/database")
	}
	db, err := sql.Open("postgres", rawURL)
	if err != nil {
		return nil, err
	}
	if err := db.PingContext(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &cluster{url: u, db: db}, nil
}

func (c *cluster) close() error { return c.db.Close() }

// urlOf is the cluster's URL with another database in it.
func (c *cluster) urlOf(database string) string {
	u := *c.url
	u.Path = "/" + database
	return u.String()
}

// create makes an empty database for a system.
func (c *cluster) create(ctx context.Context, system string) (name string, err error) {
	var suffix [4]byte
	rand.Read(suffix[:])
	name = "bench_" + system + "_" + hex.EncodeToString(suffix[:])
	if _, err := c.db.ExecContext(ctx, "CREATE DATABASE "+pq.QuoteIdentifier(name)); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return name, nil
}

// drop removes a database that create made, also when ctx has ended.
func (c *cluster) drop(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if _, err := c.db.ExecContext(ctx, "DROP DATABASE IF EXISTS "+pq.QuoteIdentifier(name)+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

// checkpoint writes out what earlier trials left behind, so that none pays for another. Without
// the right to do so the trials go on; they are interleaved for the same reason.
func (c *cluster) checkpoint(ctx context.Context) error {
	_, err := c.db.ExecContext(ctx, "CHECKPOINT")
	if denied, ok := errors.AsType[*pq.Error](err); ok && denied.Code == "42501" {
		return nil
	}
	return err
}

// settings are those of the cluster's that the figures depend on most.
func (c *cluster) settings(ctx context.Context) (version string, settings []string, err error) {
	if err := c.db.QueryRowContext(ctx, "SHOW server_version").Scan(&version); err != nil {
		return "", nil, err
	}
	rows, err := c.db.QueryContext(ctx, `SELECT name || ' = ' || current_setting(name) FROM pg_settings
		WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_wal_size', 'wal_level', 'max_connections', 'autovacuum')
		ORDER BY name`)
	if err != nil {
		return "", nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return "", nil, err
		}
		settings = append(settings, s)
	}
	return version, settings, rows.Err()
}
