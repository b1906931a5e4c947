package store

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

// Fingerprint is equal for failures that are alike: of one handler, of one
// kind, and with messages that differ only in what differs from event to event
// – ids, numbers, quoted values, addresses, times. It is 16 hexadecimal digits,
// and the same for a message and for what the database keeps of it.
func Fingerprint(handler string, kind Kind, message string) string {
	sum := sha256.Sum256([]byte(handler + "\x00" + string(kind) + "\x00" + MessagePattern(message)))
	return hex.EncodeToString(sum[:8])
}

// MessagePattern is what a message has in common with those that are alike: each value
// in it is replaced by #, or by * if it is quoted. It contains no digit, and is
// its own gist.
func MessagePattern(message string) string {
	message = strings.TrimSpace(spaces.ReplaceAllString(sqldb.Printable(message, sqldb.MaxMessage), ` `))
	for _, v := range values {
		message = v.pattern.ReplaceAllString(message, v.sign)
	}
	return message
}

var spaces = regexp.MustCompile(`[\s\v\pZ\x{85}]+`)

// values is what differs from event to event, the larger before what it is
// made of. No sign is part of a value, or longer than one: what is left is
// never taken for a value again.
var values = []struct {
	pattern *regexp.Regexp
	sign    string
}{
	// Quoted, whichever quote opens first; a message that was cut may lack the
	// other. A single quote opens where a word may begin, and closes where one
	// may end: can't and 'O'Brien'.
	{regexp.MustCompile(`"(?:[^"\\]|\\.)*(?:"|\\?` + cut + `)` +
		`|(^|[ (\[{<=:,;/|])'(?:[^'\\]|\\.|'[\pL\pN])*(?:'|\\?` + cut + `)` +
		"|`[^`]*`|“[^”]*”|‘[^’]*’|«[^»]*»"), `$1*`},
	// URLs, e-mail addresses, names that were looked up in vain, IPv6 with a
	// port, IPv6 without (or a MAC address, or a time), IPv4, and a name with a
	// port or a file with a line.
	{regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.\-]*://[^ ,;)\]}>]+`), `#`},
	{regexp.MustCompile(`[\pL\pN._%+\-]+@[\pL\pN.\-]+`), `#`},
	{regexp.MustCompile(`\blookup [\pL\pN_\-]+(?:\.[\pL\pN_\-]+)+`), `lookup #`},
	{regexp.MustCompile(`\[[0-9a-fA-F]*:[0-9a-fA-F]*:[0-9a-fA-F:.]*(?:%[\pL\pN]+)?\](?::\pN+)?`), `#`},
	{regexp.MustCompile(`\b[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{0,4}){2,7}\b(?:%[\pL\pN]+)?`), `#`},
	{regexp.MustCompile(`\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b(?::\pN+)?`), `#`},
	{regexp.MustCompile(`[\pL\pN_\-]+(?:\.[\pL\pN_\-]+)+:\pN+(?:[:.]\pN+)*`), `#`},
	// Dates, UUIDs, and words with a digit in them: most are numbers or ids.
	{regexp.MustCompile(`(?:\b` + weekday + `,? )?\b(?:` + month + ` \pN[\pL\pN]*|\pN[\pL\pN]*[ \-]` + month + `\b)`), `#`},
	{regexp.MustCompile(`\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b`), `#`},
	{regexp.MustCompile(`[\pL_]*\pN[\pL\pN_]*`), `#`},
	// Several in a row.
	{regexp.MustCompile(`#(?:[ .,:/+_\-]*#)+`), `#`},
}

const (
	cut     = `… \(cut\)$` // see printable
	weekday = `(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?`
	month   = `(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)`
)
