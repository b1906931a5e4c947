package sqldb

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/lib/pq"
)

// Refused reports whether an error proves that a statement had no effect. The proof is
// that the statement was never sent, or that a database which keeps working refused it.
//
// An error that ends or refuses a connection proves nothing: database/sql sends a
// statement again when a connection is lost, and the refusal of the second sending says
// nothing about the first. Neither does an error with which a server may crash in the
// middle of a commit, such as a full disk.
func Refused(err error) bool {
	var (
		sent   *SentError
		itself *refusal
		sqlite interface{ Code() int } // of modernc.org/sqlite
		state  = State(err)
	)
	switch {
	case errors.As(err, &sent) && sent.Times != 1:
		return sent.Times == 0
	case state != "":
		return !lostByFatal(err) && (!mayEndConnection(state) || mayBePlain(state) && isPlainError(err))
	case errors.As(err, &sqlite):
		return true
	default:
		return errors.As(err, &itself) || errors.Is(err, sql.ErrTxDone) || errors.Is(err, sql.ErrConnDone) ||
			errors.Is(err, pq.ErrInFailedTransaction)
	}
}

// Unacceptable reports whether the database refused the content of the statement, as
// opposed to refusing to work. Another statement may then be accepted.
func Unacceptable(err error) bool {
	var (
		sqlite interface{ Code() int }
		itself *refusal
	)
	switch {
	case !Refused(err):
		return false
	case errors.As(err, &itself):
		return true
	case errors.As(err, &sqlite):
		code := sqlite.Code() & 0xff
		return code == 18 || code == 19 || code == 20 // too big, constraint, mismatch
	}
	state := State(err)
	switch state[:min(2, len(state))] {
	case "21", "22", "23", "40", "44", "45", "54", "P0", "RP": // cardinality, data, constraint, deadlock, a view's check, a user's, limits, a trigger's, an id that is taken
		return true
	}
	return ownState(state)
}

// ownState reports whether the SQLSTATE belongs to neither SQL nor PostgreSQL: a
// trigger of the application may raise it. SQL reserves the classes that begin with 0
// to 4 and A to H, and PostgreSQL uses some of the others.
func ownState(state string) bool {
	switch {
	case len(state) != 5, state[0] <= '4', 'A' <= state[0] && state[0] <= 'H':
		return false
	}
	switch state[:2] {
	case "53", "54", "55", "57", "58", "72", "P0", "XX":
		return false
	}
	return true
}

// Answered reports whether the database answered a statement with an error, and is not
// away. The content of the statement may be the reason. Whether the statement had an
// effect is another question: see Refused. No list of SQLSTATEs can say more, because a
// trigger of the application may raise any.
func Answered(err error) bool {
	state := State(err)
	switch state {
	case "":
		return Unacceptable(err)
	case "25006", "53300", "57P01", "57P02", "57P03", "57P05": // read-only, no connection to be had, shut down, starting
		return false
	}
	return state[:min(2, len(state))] != "08"
}

// Locked reports whether the database gave up waiting for locks on rows or tables, as
// lock_timeout or statement_timeout demand. Nothing of the statement is written, and
// another statement may be accepted at once.
func Locked(err error) bool {
	switch State(err) {
	case "55P03", "57014":
		return true
	}
	return false
}

// Busy reports whether the database refused only because of concurrent work: a
// collision, lock_timeout, or SQLITE_BUSY.
func Busy(err error) bool {
	var sqlite interface{ Code() int }
	if errors.As(err, &sqlite) {
		code := sqlite.Code() & 0xff
		return code == 5 || code == 6 // busy, locked
	}
	return Collided(err) || State(err) == "55P03"
}

// Transient reports whether a retry may succeed a moment later without a change of
// configuration or permissions: the database could not be reached, was starting,
// stopping or full, or was busy.
func Transient(err error) bool {
	var (
		sqlite  interface{ Code() int }
		network net.Error
	)
	switch state := State(err); {
	case err == nil:
		return false
	case state != "":
		return Busy(err) || Locked(err) || slices.Contains(transientStates, state) || slices.Contains(transientClasses, state[:min(2, len(state))])
	case errors.As(err, &sqlite):
		return Busy(err) || sqlite.Code()&0xff == 13 // full
	default:
		return errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	}
}

var (
	transientClasses = []string{"08", "53", "58"} // connection, resources, the system that the server runs on
	transientStates  = []string{
		"25006",          // read-only, as after a failover
		"25P03", "25P04", // idle in a transaction, or in one, for too long
		"55000",                            // the database accepts no connections
		"57P01", "57P02", "57P03", "57P05", // shut down, crashed, starting, idle for too long
	}
)

// SentError is the error of a statement, or of its last sending if it was sent several
// times. The results of the earlier sendings are unknown.
type SentError struct {
	Err   error
	Times int // how often it was sent
}

func (e *SentError) Error() string { return e.Err.Error() }
func (e *SentError) Unwrap() error { return e.Err }

// NewRefusal returns an error which says that a statement was refused for its content
// and had no effect.
func NewRefusal(text string) error { return &refusal{text} }

type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// State returns the SQLSTATE of an error of lib/pq or pgx, or "".
func State(err error) string {
	var postgres interface{ SQLState() string }
	if errors.As(err, &postgres) {
		return postgres.SQLState()
	}
	return ""
}

// mayEndConnection reports whether PostgreSQL or a pooler may end or refuse a
// connection with the SQLSTATE, or crash with it. The severity FATAL or PANIC would say
// so exactly, but it is in the server's language.
func mayEndConnection(state string) bool {
	switch state {
	case "25P03", "25P04", // idle in a transaction, or in one, for too long
		"40003", // completion unknown
		"55000": // the database accepts no connections
		return true
	case "57014": // cancelled, for example by statement_timeout: the only one of its class that keeps the connection
		return false
	}
	switch state[:min(2, len(state))] {
	case "08", "28", "3D", "53", "57", "58", "F0", "XX": // connection, authorization, database, resources, operator, system, configuration, internal
		return true
	}
	return false
}

// mayBePlain reports whether a statement or a trigger may fail with the SQLSTATE on a
// connection that continues, such as when the disk is full.
func mayBePlain(state string) bool {
	switch state[:min(2, len(state))] {
	case "28", "3D", "53", "58", "F0", "XX":
		return true
	}
	return state == "55000"
}

// isPlainError reports whether the severity proves that the server continues. No
// language calls another severity ERROR. If the language calls ERROR something else, or
// with pgx, the answer is unknown, and isPlainError returns false.
func isPlainError(err error) bool {
	var own *pq.Error
	return errors.As(err, &own) && own.Severity == "ERROR"
}

// lostByFatal reports whether lib/pq considers the connection lost, which makes
// database/sql send the statement again. lib/pq uses the severity, which it reads in
// the server's language. This only adds to mayEndConnection: for example, the
// permission to connect was revoked between two sendings.
func lostByFatal(err error) bool {
	var own *pq.Error
	return errors.As(err, &own) && own.Fatal()
}

// UniqueViolation is an SQLSTATE.
const UniqueViolation = "23505"

// RowError explains a unique violation by a statement that handles known ids itself.
// The number of the row is taken, or the violated constraint is not Reprise's.
func RowError(err error) error {
	if State(err) != UniqueViolation {
		return err
	}
	return fmt.Errorf("%w: if the constraint is a primary key of Reprise's (its name ends in _pkey), the table's sequence is behind its rows, as after a restore or logical replication: `reprise doctor` prints the statement that sets it", err)
}
