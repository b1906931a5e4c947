package sqldb

import (
	"database/sql/driver"
	"encoding/hex"
	"strings"
)

// Array is a parameter of type text[] or bytea[], written into one buffer. The arrays of
// lib/pq grow while they are written, which took a sixth of all memory that a publish
// allocated. Call Close after the last element.
type Array struct{ text strings.Builder }

// Grow makes room for n elements with so many bytes in total.
func (a *Array) Grow(n, bytes int) { a.text.Grow(bytes + bytes/8 + 3*n + 2) }

func (a *Array) begin() {
	if a.text.Len() == 0 {
		a.text.WriteByte('{')
	} else {
		a.text.WriteByte(',')
	}
}

// Null adds NULL.
func (a *Array) Null() {
	a.begin()
	a.text.WriteString("NULL")
}

// Add adds a text.
func (a *Array) Add(s string) {
	a.begin()
	a.text.WriteByte('"')
	for {
		i := strings.IndexAny(s, `"\`)
		if i < 0 {
			break
		}
		a.text.WriteString(s[:i])
		a.text.WriteByte('\\')
		a.text.WriteByte(s[i])
		s = s[i+1:]
	}
	a.text.WriteString(s)
	a.text.WriteByte('"')
}

// AddBytes adds bytes.
func (a *Array) AddBytes(b []byte) {
	a.begin()
	a.text.WriteString(`"\\x`)
	_, _ = hex.NewEncoder(&a.text).Write(b) // a Builder never fails
	a.text.WriteByte('"')
}

// Close ends the array.
func (a *Array) Close() {
	if a.text.Len() == 0 {
		a.text.WriteByte('{')
	}
	a.text.WriteByte('}')
}

// Value implements driver.Valuer.
func (a *Array) Value() (driver.Value, error) { return a.text.String(), nil }
