package store

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
)

// Fingerprint is equal for failures that are alike: of one handler, of one
// kind, and with messages that differ only in what differs from event to event
// – ids, numbers, quoted values, addresses, times. It is 16 hexadecimal digits,
// and the same for a message and for what the database keeps of it.
func Fingerprint(handler string, kind Kind, message string) string {
	sum := sha256.Sum256([]byte(handler + "\x00" + string(kind) + "\x00" + Gist(message)))
	return hex.EncodeToString(sum[:8])
}

// Gist is what a message has in common with those that are alike: each value
// in it is replaced by a sign of its sort. It contains no digit, and is its own
// gist.
func Gist(message string) string {
	message = strings.TrimSpace(spaces.ReplaceAllString(printable(message, maxMessage), ` `))
	for _, v := range values {
		message = v.pattern.ReplaceAllString(message, v.sign)
	}
	return message
}

var spaces = regexp.MustCompile(`[\s\v\pZ\x{85}]+`)

// values is what differs from event to event, the larger before what it is
// made of. No sign is part of a value: what is left is not taken for one again.
var values = []struct {
	pattern *regexp.Regexp
	sign    string
}{
	// Quoted, whichever quote opens first; the message may have been cut before
	// it closes. A single quote opens where a word may begin: can't has none.
	{regexp.MustCompile(`"(?:[^"\\]|\\.)*(?:"|\\?… \(cut\)$)` +
		`|(^|[ (\[{<=:,;/|])'(?:[^'\\]|\\.)*(?:'|\\?… \(cut\)$)` +
		"|`[^`]*`|“[^”]*”|‘[^’]*’|«[^»]*»"), `$1…`},
	{regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.\-]*://[^ ,;)\]}>]+`), `@`},                                    // URLs
	{regexp.MustCompile(`[\pL\pN._%+\-]+@[\pL\pN.\-]+`), `@`},                                               // of e-mail
	{regexp.MustCompile(`\blookup [\pL\pN_\-]+(?:\.[\pL\pN_\-]+)+`), `lookup @`},                            // names that did not resolve
	{regexp.MustCompile(`\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:%[\pL\pN]+)?\](?::\pN+)?`), `@`},                 // IPv6, with a port
	{regexp.MustCompile(`\b[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{0,4}){2,7}\b(?:%[\pL\pN]+)?`), `@`},              // IPv6, MAC addresses, times of day
	{regexp.MustCompile(`\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b(?::\pN+)?`), `@`},                                // IPv4
	{regexp.MustCompile(`[\pL\pN_\-]+(?:\.[\pL\pN_\-]+)+:\pN+(?:[:.]\pN+)*`), `@`},                          // host and port, file and line
	{regexp.MustCompile(`(?:\b` + weekday + `,? )?\b(?:` + month + ` \pN+|\pN+[ \-]` + month + `)\b`), `#`}, // dates
	{regexp.MustCompile(`\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b`), `#`},
	{regexp.MustCompile(`[\pL_]*\pN[\pL\pN_]*`), `#`},      // numbers, and words with one in them: most are ids
	{regexp.MustCompile(`[#@](?:[ .,:/+_\-]*[#@])+`), `#`}, // several in a row
}

const (
	weekday = `(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*`
	month   = `(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*`
)
