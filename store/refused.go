package store

import (
	"database/sql"
	"errors"
	"strings"

	"github.com/lib/pq"
)

// Refused says whether the database itself refused a statement, which then has
// had no effect, as opposed to an error that leaves it open.
//
// An error that ends or refuses a connection leaves it open: database/sql sends
// a statement again when a connection is lost, and the refusal of the second
// says nothing of the first.
func Refused(err error) bool {
	var (
		postgres interface{ SQLState() string } // of lib/pq and pgx
		sqlite   interface{ Code() int }        // of modernc.org/sqlite
	)
	switch {
	case errors.As(err, &postgres):
		state := postgres.SQLState()
		return !endsConnection(err) && !strings.HasPrefix(state, "08") && state != "40003"
	case errors.As(err, &sqlite):
		return true
	default:
		return errors.Is(err, ErrDuplicateID) || errors.Is(err, sql.ErrTxDone) || errors.Is(err, sql.ErrConnDone)
	}
}

// endsConnection says whether PostgreSQL's error is FATAL or PANIC.
func endsConnection(err error) bool {
	var own *pq.Error
	if errors.As(err, &own) {
		return own.Severity == "FATAL" || own.Severity == "PANIC"
	}
	text := err.Error() // pgx begins with the severity
	return strings.Contains(text, "FATAL: ") || strings.Contains(text, "PANIC: ")
}
