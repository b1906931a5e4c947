package sqldb_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// state is an error as another driver has it, by a server of any language.
type state string

func (s state) SQLState() string { return string(s) }
func (s state) Error() string    { return "FATAL: in Worten, die niemand liest" }

// code is an error of SQLite's.
type code int

func (c code) Code() int     { return int(c) }
func (c code) Error() string { return "words" }

// What the database says is judged by its SQLSTATE or code, whatever the driver
// and the language of the server.
func TestErrorsAreJudgedByTheirCodes(t *testing.T) {
	t.Parallel()
	type verdict struct{ refused, unacceptable, busy, locked, transient bool }
	for code, want := range map[string]verdict{
		"RP001": {refused: true, unacceptable: true},                              // our own: the id is taken
		"MY001": {refused: true, unacceptable: true},                              // a user's trigger
		"P0001": {refused: true, unacceptable: true},                              // a user's trigger, without a code of its own
		"22P02": {refused: true, unacceptable: true},                              // invalid data
		"23514": {refused: true, unacceptable: true},                              // a check
		"54000": {refused: true, unacceptable: true},                              // too large
		"40001": {refused: true, unacceptable: true, busy: true, transient: true}, // serialization failure
		"40P01": {refused: true, unacceptable: true, busy: true, transient: true}, // deadlock
		"55P03": {refused: true, busy: true, locked: true, transient: true},       // lock_timeout
		"57014": {refused: true, locked: true, transient: true},                   // statement_timeout
		"25006": {refused: true, transient: true},                                 // read-only
		"42501": {refused: true},                                                  // no permission
		"42P01": {refused: true},                                                  // no such table
		"40003": {},
		"3D000": {}, // no such database
		"28P01": {}, // wrong password
		"XX000": {},
		"57P04": {}, // the database was dropped
		"08006": {transient: true},
		"08P01": {transient: true},
		"25P03": {transient: true},
		"53100": {transient: true},
		"53300": {transient: true},
		"55000": {transient: true},
		"57P01": {transient: true},
		"57P03": {transient: true},
	} {
		for driver, err := range map[string]error{"pq": &pq.Error{Severity: "FEHLER", Code: pqerror.Code(code)}, "another": state(code)} {
			err = fmt.Errorf("wrapped: %w", err)
			require.Equal(t, want, verdict{
				sqldb.Refused(err), sqldb.Unacceptable(err), sqldb.Busy(err), sqldb.Locked(err), sqldb.Transient(err),
			}, "%s of %s", code, driver)
		}
	}
	for _, err := range []error{
		driver.ErrBadConn, io.ErrUnexpectedEOF, &net.OpError{Op: "dial", Err: errors.New("connection refused")}, &net.DNSError{},
		code(5), code(6), code(5 | 1<<8), code(13),
	} {
		require.True(t, sqldb.Transient(fmt.Errorf("wrapped: %w", err)), "%#v", err)
	}
	for _, err := range []error{nil, context.Canceled, errors.New("anything else"), code(1), code(19)} {
		require.False(t, sqldb.Transient(err), "%#v", err)
	}
	require.True(t, sqldb.Busy(code(5)))
	require.False(t, sqldb.Busy(code(13)))
	require.False(t, sqldb.Busy(nil))
}
