package dialect

import "errors"

// Primary result codes of SQLite that mean the locks of others.
const (
	busy     = 5  // another connection has the lock, or has written since this one's snapshot
	locked   = 6  // likewise, in a shared cache
	protocol = 15 // others begin to read a WAL at the same time
)

// Primary result codes of SQLite that mean the file.
const (
	readonly = 8
	cantopen = 14
)

// Busy says whether SQLite refused a statement only because of what other
// connections do at the same time. It goes by the result code of
// modernc.org/sqlite's error, not by its words.
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

// ReadOnly says whether SQLite refused to write because the file, its directory
// or how it was opened does not allow it.
func ReadOnly(err error) bool {
	code, ok := ResultCode(err)
	return ok && code&0xff == readonly
}

// CannotOpen says whether SQLite could not open a file, or another one that it
// needs beside it.
func CannotOpen(err error) bool {
	code, ok := ResultCode(err)
	return ok && (code&0xff == cantopen || code&0xff == readonly)
}

// ResultCode returns the extended result code of an error of SQLite's. The
// primary code is its lowest byte.
func ResultCode(err error) (code int, ok bool) {
	var sqlite interface{ Code() int }
	if !errors.As(err, &sqlite) {
		return 0, false
	}
	return sqlite.Code(), true
}
