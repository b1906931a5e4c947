package main

import (
	"context"

	"github.com/reprise-bus/reprise/store"
)

const ticketsTable = `CREATE TABLE IF NOT EXISTS tickets (
	run bigint PRIMARY KEY, sku text NOT NULL, kind text NOT NULL, reason text NOT NULL)`

// openTicket is the policy's OnExhausted: a person must look. Should the
// process die before the end of the run is on record, this is called again, so
// a run has one ticket.
func (a *app) openTicket(ctx context.Context, run store.Run, cause error) error {
	_, err := a.bus.DB().ExecContext(ctx, `
		INSERT INTO tickets (run, sku, kind, reason) VALUES ($1, $2, $3, $4)
		ON CONFLICT (run) DO UPDATE SET kind = excluded.kind, reason = excluded.reason`,
		run.ID, run.Key, string(run.ErrorKind), cause.Error())
	return err
}
