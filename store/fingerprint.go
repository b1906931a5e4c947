package store

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Fingerprint returns the same 16 hexadecimal digits for failures that are alike: same
// handler, same kind, and messages that differ only in values such as ids, numbers,
// quoted values, addresses and times. A message and its stored form have the same
// fingerprint.
func Fingerprint(handler string, kind Kind, message string) string {
	sum := sha256.Sum256([]byte(handler + "\x00" + string(kind) + "\x00" + MessagePattern(message)))
	return hex.EncodeToString(sum[:8])
}

// MessagePattern replaces each value in a message by #, or by * if it is quoted.
// Messages that are alike have the same pattern. A pattern contains no digit, and is
// its own pattern.
func MessagePattern(message string) string {
	message = strings.TrimSpace(spaces.ReplaceAllString(sqldb.Printable(message, sqldb.MaxMessage), ` `))
	for _, v := range values {
		message = v.pattern.ReplaceAllString(message, v.sign)
	}
	return message
}

var spaces = regexp.MustCompile(`[\s\v\pZ\x{85}]+`)

// values lists what differs from event to event, a larger value before the values that
// it contains. No sign is part of a value or longer than a value, so that no pattern
// matches what is left.
var values = []struct {
	pattern *regexp.Regexp
	sign    string
}{
	// Quoted values, whichever quote opens first. A message that was cut may lack the
	// closing quote. A single quote opens where a word may begin and closes where a
	// word may end: can't and 'O'Brien'.
	{regexp.MustCompile(`"(?:[^"\\]|\\.)*(?:"|\\?` + cut + `)` +
		`|(^|[ (\[{<=:,;/|])'(?:[^'\\]|\\.|'[\pL\pN])*(?:'|\\?` + cut + `)` +
		"|`[^`]*`|“[^”]*”|‘[^’]*’|«[^»]*»"), `$1*`},
	// URLs, e-mail addresses, names whose lookup failed, IPv6 with a port, IPv6 without
	// a port (or a MAC address, or a time), IPv4, a name with a port or a file with a
	// line.
	{regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.\-]*://[^ ,;)\]}>]+`), `#`},
	{regexp.MustCompile(`[\pL\pN._%+\-]+@[\pL\pN.\-]+`), `#`},
	{regexp.MustCompile(`\blookup [\pL\pN_\-]+(?:\.[\pL\pN_\-]+)+`), `lookup #`},
	{regexp.MustCompile(`\[[0-9a-fA-F]*:[0-9a-fA-F]*:[0-9a-fA-F:.]*(?:%[\pL\pN]+)?\](?::\pN+)?`), `#`},
	{regexp.MustCompile(`\b[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{0,4}){2,7}\b(?:%[\pL\pN]+)?`), `#`},
	{regexp.MustCompile(`\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b(?::\pN+)?`), `#`},
	{regexp.MustCompile(`[\pL\pN_\-]+(?:\.[\pL\pN_\-]+)+:\pN+(?:[:.]\pN+)*`), `#`},
	// Dates, UUIDs, and words with a digit: most of them are numbers or ids.
	{regexp.MustCompile(`(?:\b` + weekday + `,? )?\b(?:` + month + ` \pN[\pL\pN]*|\pN[\pL\pN]*[ \-]` + month + `\b)`), `#`},
	{regexp.MustCompile(`\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b`), `#`},
	{regexp.MustCompile(`[\pL_]*\pN[\pL\pN_]*`), `#`},
	// Several values in a row.
	{regexp.MustCompile(`#(?:[ .,:/+_\-]*#)+`), `#`},
}

const (
	cut     = `… \(cut\)$` // see sqldb.Printable
	weekday = `(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?`
	month   = `(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)`
)
