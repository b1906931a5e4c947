package main

import (
	"context"
	"errors"

	"github.com/reprise-bus/reprise/handlers"
)

// notices are what the buyers get to see.
const noticesTable = `CREATE TABLE IF NOT EXISTS notices (
	run bigint NOT NULL, cycle integer NOT NULL, sku text NOT NULL, message text NOT NULL)`

// tellBuyers writes a notice. Its policy is Transactional: the notice commits
// together with the run's SUCCESS, so that there is one for each event, however
// often this is called.
func (a *app) tellBuyers(ctx context.Context, e StockUpdateFailed) error {
	tx, ok := handlers.Tx(ctx)
	if !ok {
		return handlers.Permanent(errors.New("no transaction: is the policy Transactional?"))
	}
	message := "the marketplace is behind; another cycle follows"
	if e.Final {
		message = "the marketplace is behind until somebody sees to it"
	}
	_, err := tx.ExecContext(ctx,
		`INSERT INTO notices (run, cycle, sku, message) VALUES ($1, $2, $3, $4)`, e.Run, e.Cycle, e.SKU, message)
	return err
}
