package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/store"
)

// play plays the story and prints it.
func (a *app) play(ctx context.Context, out io.Writer) (err error) {
	fmt.Fprint(out, "== Three people sign up. No handler is running yet.\n\n")
	server, err := a.serveHTTP("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer server.Close()
	emails, err := a.signUpThree(ctx, out, "http://"+server.Addr)
	if err != nil {
		return err
	}
	// What an earlier process left behind is due too, and part of the story.
	runs, err := a.bus.Store().Runs(ctx, store.Filter{Topic: topic, Status: store.Pending})
	if err != nil {
		return err
	}
	switch {
	case len(runs) > 0:
		printRuns(out, runs)
	case a.carried:
		fmt.Fprint(out, "\nThe events wait in the outbox, for the broker: it is the handlers' process that sends them.\n")
	default:
		return errors.New("another process runs the handlers on this database: stop it, or play in another one")
	}

	fmt.Fprint(out, "\n== The handlers start. The mail server is down.\n\n")
	a.mail.setDown(true)
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer stop() // nothing left to wait for
		ended <- a.bus.Run(ctx)
	}()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	if a.carried {
		if runs, err = a.waitForRuns(ctx, emails); err != nil {
			return err
		}
	}
	if runs, err = a.waitForEnds(ctx, runs); err != nil {
		return err
	}
	printRuns(out, runs)

	fmt.Fprint(out, "\n== The mail server is back. What failed is replayed.\n\n")
	a.mail.setDown(false)
	again, err := a.replay(ctx, "the mail server is back")
	if err != nil {
		return err
	}
	if runs, err = a.waitForEnds(ctx, runs); err != nil {
		return err
	}
	printRuns(out, runs)
	if slices.ContainsFunc(runs, func(r store.Run) bool { return r.Status == store.Failed }) {
		return errors.New("some runs failed again: the table says why")
	}

	fmt.Fprintf(out, `
Nothing was lost: %d runs failed, with the reason on record; replay %d ran them again, and %d mails are out.
Look around:  %s
What failed:  %s
By hand:      %s
`, again.Taken, again.ID, len(a.mail.mails()),
		a.queryCommand("id, key, handler, status, attempt", "handler_runs"),
		a.queryCommand("run_id, attempt, message", "run_attempts"),
		a.serveCommand())
	return nil
}

// signUpThree signs up people who are new, also when the story is played on
// the same database again.
func (a *app) signUpThree(ctx context.Context, out io.Writer, url string) (emails []string, err error) {
	var users int
	if err := a.bus.DB().QueryRowContext(ctx, `SELECT count(*) FROM users`).Scan(&users); err != nil {
		return nil, err
	}
	for _, name := range []string{"ada", "grace", "barbara"} {
		if users > 0 {
			name = fmt.Sprintf("%s+%d", name, users)
		}
		emails = append(emails, name+"@example.com")
		body := fmt.Sprintf(`{"email": "%s@example.com"}`, name)
		response, err := http.Post(url+"/signup", "application/json", strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		response.Body.Close()
		fmt.Fprintf(out, "POST /signup %s: %s\n", body, response.Status)
		if response.StatusCode != http.StatusCreated {
			return nil, errors.New("the sign-up was refused")
		}
	}
	return emails, nil
}

// waitForRuns returns the runs of those who signed up, two for each, when the
// broker has brought all of them.
func (a *app) waitForRuns(ctx context.Context, emails []string) (runs []store.Run, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the broker has not brought the events within 30 s"))
	defer cancel()
	for {
		runs = nil
		for _, email := range emails {
			found, err := a.bus.Store().Runs(ctx, store.Filter{Topic: topic, Key: email})
			if err != nil {
				return nil, err
			}
			runs = append(runs, found...)
		}
		if len(runs) == 2*len(emails) {
			return runs, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// waitForEnds returns the runs as they are when none is PENDING any more.
func (a *app) waitForEnds(ctx context.Context, runs []store.Run) ([]store.Run, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("runs are still PENDING after 30 s"))
	defer cancel()
	var these store.Filter
	for _, r := range runs {
		these.IDs = append(these.IDs, r.ID)
	}
	for {
		runs, err := a.bus.Store().Runs(ctx, these)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(runs, func(r store.Run) bool { return r.Status == store.Pending }) {
			return runs, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
