package main

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/reprise-bus/reprise/bus"
)

// UserSignedUp is the event: what happened, and what handlers need to know.
type UserSignedUp struct {
	ID    string `json:"id"`
	Email string `json:"email"`
}

const topic = "user.signed_up"

// EventName is the topic. It is written by hand, and stays what it is when the
// type is renamed.
func (UserSignedUp) EventName() string { return topic }

// EventKey is whom the event is about. The record shows it with each run.
func (e UserSignedUp) EventKey() string { return e.Email }

func (a *app) createUsers(ctx context.Context) error {
	_, err := a.bus.DB().ExecContext(ctx,
		`CREATE TABLE IF NOT EXISTS users (id text PRIMARY KEY, email text NOT NULL UNIQUE, trial_ends text)`)
	return err
}

var errTaken = errors.New("somebody has signed up with this address already")

// signUp inserts the user and publishes the event in one transaction: there is
// never a user whom the handlers do not hear of, nor an event without a user.
func (a *app) signUp(ctx context.Context, email string) (UserSignedUp, error) {
	user := UserSignedUp{ID: rand.Text(), Email: email}
	err := a.bus.InTx(ctx, func(tx *bus.Tx) error {
		inserted, err := tx.ExecContext(ctx,
			`INSERT INTO users (id, email) VALUES ($1, $2) ON CONFLICT (email) DO NOTHING`, user.ID, user.Email)
		if err != nil {
			return err
		}
		if n, err := inserted.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return errTaken
		}
		return a.bus.PublishTx(ctx, tx, user)
	})
	return user, err
}
