package sqldb

import "fmt"

// poolerError adds advice to the error of a prepared statement that is not on the
// connection, or that another client has left there: SQLSTATE 26000 and 42P05 (invalid
// and duplicate statement name). Only a pooler that gives one connection to several
// clients in turn causes these. The same pooler may cause 08P01, when the other
// client's statement has other parameters.
func (d *DB) poolerError(err error) error {
	const remedy = "set Unprepared (bus.Config, store.Unprepared), and what docs/postgres.md says of the driver's URL"
	switch state := State(err); {
	case state == "26000", state == "42P05":
		return fmt.Errorf("%w: a transaction pooler, such as PgBouncer, gave the prepared statement to another connection: %s", err, remedy)
	case state == "08P01" && d.prepares:
		return fmt.Errorf("%w: if a transaction pooler, such as PgBouncer, stands between, it may have given the prepared statement to another connection: %s", err, remedy)
	}
	return err
}
