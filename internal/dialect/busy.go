package dialect

import "errors"

// Primary result codes of SQLite that are about locks of other connections.
const (
	busy     = 5  // another connection has the lock, or has written since this connection's snapshot
	locked   = 6  // likewise, in a shared cache
	protocol = 15 // other connections begin to read a WAL at the same time
)

// Primary result codes of SQLite that are about the file.
const (
	readonly = 8
	cantopen = 14
)

// Busy reports whether SQLite refused a statement only because of other connections'
// concurrent work. It uses the result code of modernc.org/sqlite's error, not its text.
func Busy(err error) bool {
	code, ok := ResultCode(err)
	if !ok {
		return false
	}
	switch code & 0xff {
	case busy, locked, protocol:
		return true
	}
	return false
}

// ReadOnly reports whether SQLite refused to write because of the permissions of the
// file or its directory, or because of how the file was opened.
func ReadOnly(err error) bool {
	code, ok := ResultCode(err)
	return ok && code&0xff == readonly
}

// CannotOpen reports whether SQLite could not open a file, or another file that it
// needs beside it.
func CannotOpen(err error) bool {
	code, ok := ResultCode(err)
	return ok && (code&0xff == cantopen || code&0xff == readonly)
}

// ResultCode returns the extended result code of an error of SQLite. Its lowest byte is
// the primary code.
func ResultCode(err error) (code int, ok bool) {
	var sqlite interface{ Code() int }
	if !errors.As(err, &sqlite) {
		return 0, false
	}
	return sqlite.Code(), true
}
