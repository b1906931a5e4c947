package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	_ "github.com/lib/pq"
)

// connect reports in one sentence why the server that the caller named cannot
// be used.
func connect(ctx context.Context, rawURL string) error {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return fmt.Errorf("%s is not a postgres:// URL: correct it, or unset it to get a throwaway server", urlVariable)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("no answer within 10 s"))
	defer cancel()
	if err := ping(ctx, rawURL); err != nil {
		return fmt.Errorf("cannot connect to %s, the server of %s (%w): start it, correct the variable, or unset it to get a throwaway server", redact(rawURL), urlVariable, err)
	}
	return nil
}

// ping connects once. It returns when ctx ends even where lib/pq would not:
// in the middle of the handshake.
func ping(ctx context.Context, rawURL string) error {
	db, err := sql.Open("postgres", rawURL)
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() { result <- errors.Join(db.PingContext(ctx), db.Close()) }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// redact is rawURL without its password, fit to be shown.
func redact(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "an unreadable URL"
	}
	query := u.Query()
	for _, secret := range []string{"password", "sslpassword"} {
		if query.Has(secret) {
			query.Set(secret, "xxxxx")
			u.RawQuery = query.Encode()
		}
	}
	return u.Redacted()
}
