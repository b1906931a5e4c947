package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/reprise-bus/reprise/internal/pgserver"
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
	if err := pgserver.Ping(ctx, rawURL); err != nil {
		return fmt.Errorf("cannot connect to %s, the server of %s (%w): start it, correct the variable, or unset it to get a throwaway server", redact(rawURL), urlVariable, err)
	}
	return nil
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
