package store

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/lib/pq"
)

// Refused says whether an error proves that a statement had no effect, as
// opposed to one that leaves it open. What proves it is that the statement was
// never sent, or that a database which goes on working refused it.
//
// An error that ends or refuses a connection leaves it open: database/sql sends
// a statement again when a connection is lost, and the refusal of the second
// says nothing of the first.
func Refused(err error) bool {
	var (
		sent   *sentError
		sqlite interface{ Code() int } // of modernc.org/sqlite
		state  = sqlState(err)
	)
	switch {
	case errors.As(err, &sent) && sent.times != 1:
		return sent.times == 0
	case state != "":
		return !endsConnection(err) && !strings.HasPrefix(state, "08") && state != "40003"
	case errors.As(err, &sqlite):
		return true
	default:
		return errors.Is(err, ErrDuplicateID) || errors.Is(err, sql.ErrTxDone) || errors.Is(err, sql.ErrConnDone) ||
			errors.Is(err, pq.ErrInFailedTransaction)
	}
}

// Unacceptable says whether the database refused what it was given, as opposed
// to refusing to work: something else may be accepted.
func Unacceptable(err error) bool {
	var sqlite interface{ Code() int }
	switch {
	case !Refused(err):
		return false
	case errors.Is(err, ErrDuplicateID):
		return true
	case errors.As(err, &sqlite):
		code := sqlite.Code() & 0xff
		return code == 18 || code == 19 || code == 20 // too big, constraint, mismatch
	}
	state := sqlState(err)
	switch state[:min(2, len(state))] {
	case "21", "22", "23", "40", "54", "P0": // cardinality, data, constraint, deadlock, limits, a trigger's
		return true
	}
	return false
}

// sentError is that of a statement, or of the last of several sendings: what
// became of the others nobody knows.
type sentError struct {
	error
	times int
}

func (e *sentError) Unwrap() error { return e.error }

// sqlState is the code of an error by lib/pq or pgx, or "".
func sqlState(err error) string {
	var postgres interface{ SQLState() string }
	if errors.As(err, &postgres) {
		return postgres.SQLState()
	}
	return ""
}

// endsConnection says whether PostgreSQL ended the connection with its error:
// the severity is FATAL or PANIC. The drivers tell the severity in the language
// of the server. In one that is not known here, an error counts as FATAL if its
// code is one that FATAL and PANIC errors have.
func endsConnection(err error) bool {
	var (
		own      *pq.Error
		any      interface{ SQLState() string }
		severity string
	)
	if errors.As(err, &own) {
		severity = own.Severity
	} else if errors.As(err, &any) {
		severity, _, _ = strings.Cut(fmt.Sprint(any), ": ") // pgx begins with it
	}
	switch severity {
	case "ERROR":
		return false
	case "FATAL", "PANIC":
		return true
	}
	state := sqlState(err)
	switch state[:min(2, len(state))] {
	case "28", "3D", "53", "58", "XX": // sign-on, database, resources, system, internal
		return true
	}
	return state == "25P03" || strings.HasPrefix(state, "57P") // timeouts of a session, shutdown
}
