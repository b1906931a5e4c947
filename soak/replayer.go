package main

import (
	"context"
	"database/sql"
	"math/rand/v2"

	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// replayer is an operator who has what failed run again. It fails again, since
// the scripts say so.
type replayer struct {
	db    *sql.DB
	store *store.Store // made once the tables are there
}

// replay replays all failed runs of one handler, if the database is there; an
// operator would try again later.
func (r *replayer) replay(ctx context.Context, rng *rand.Rand) (err error) {
	if r.store == nil {
		if r.store, err = store.New(ctx, r.db, ""); err != nil {
			return errTooSoon
		}
	}
	failing := []string{nameDoomed, nameRefuser, nameEffect, namePanicky}
	filter := store.Filter{Handler: failing[rng.IntN(len(failing))]}
	if _, err := replay.All(ctx, r.store, filter, replay.Request{By: "soak"}); err != nil {
		return errTooSoon
	}
	return nil
}
