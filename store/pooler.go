package store

import "fmt"

// poolerError says what to do about the error of a prepared statement that is
// not on the connection, or that another client has left there: SQLSTATE 26000
// and 42P05 (invalid and duplicate statement name), and 08P01 when that client's
// has other parameters. Only a pooler that gives a connection to several clients in
// turn brings that about.
func poolerError(err error) error {
	switch sqlState(err) {
	case "26000", "42P05", "08P01":
		return fmt.Errorf("%w: a transaction pooler, such as PgBouncer, gave the prepared statement to another connection: set Unprepared (bus.Config, store.Unprepared), and what docs/postgres.md says of the driver's URL", err)
	}
	return err
}
