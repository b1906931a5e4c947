package store

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/reprise-bus/reprise/internal/sqldb"
)

func alike(a, b string) bool {
	return Fingerprint("mail", KindError, a) == Fingerprint("mail", KindError, b)
}

func TestAFingerprintIs16HexadecimalDigits(t *testing.T) {
	t.Parallel()
	for _, message := range []string{"", "down", "\xff\x00", strings.Repeat("long ", 10_000)} {
		require.Regexp(t, `^[0-9a-f]{16}$`, Fingerprint("mail", KindError, message))
	}
}

func TestFailuresOfOneCauseAreAlike(t *testing.T) {
	t.Parallel()
	for name, messages := range map[string][]string{
		"an SMTP reply": {
			"550 5.1.1 The email account that you tried to reach does not exist. Learn more at https://support.google.com/mail/?p=NoSuchUser k1-20020a05600c1c8100b003fc02219081si123456wms.55 - gsmtp",
			"550-5.1.1 The email account that you tried to reach does not exist. Learn more at https://support.google.com/mail/?p=NoSuchUser f14-20020a170902e84e00b001b03a1a3151si9876543plg.123 - gsmtp",
			"550-5.1.1 The email account that you tried to reach does not exist. Learn more at https://support.google.com/mail/answer/6596?hl=de d9443c01a7336-1bb6d1d1cbdsi1234567plg.1 - gsmtp",
		},
		"an SMTP reply with addresses": {
			"smtp: 452 4.2.2 <ada@example.com>: mailbox full (queued as 4F2B1C0D9E)",
			"smtp: 452 4.2.2 <grace.hopper+orders@mail.example.org>: mailbox full (queued as 0A9B8C7D6E5)",
		},
		"a refused connection": {
			"dial tcp 10.0.0.1:5432: connect: connection refused",
			"dial tcp 192.168.100.23:25: connect: connection refused",
			"dial tcp [::1]:5432: connect: connection refused",
			"dial tcp [2001:db8::8a2e:370:7334]:587: connect: connection refused",
			"dial tcp [fe80::1%eth0]:587: connect: connection refused",
			"dial tcp mx1.mail.example.com:25: connect: connection refused",
		},
		"a connection that broke": {
			"read tcp 10.0.0.1:53412->10.0.0.2:5432: read: connection reset by peer",
			"read tcp [fd00::aaaa]:61244->[fd00::bbbb]:5432: read: connection reset by peer",
		},
		"an address without a port": {"no route to 10.1.2.3", "no route to 2001:db8::ff00:42:8329", "no route to fe80::a"},
		"a name that does not resolve": {
			"lookup mx1.example.com on 8.8.8.8:53: no such host",
			"lookup mail.some-customer.co.uk on [2001:4860:4860::8888]:53: no such host",
		},
		"a MAC address": {"no lease for aa:bb:cc:dd:ee:ff", "no lease for 00:1b:44:11:3a:b7"},
		"a constraint": {
			`pq: duplicate key value violates unique constraint "users_email_key"`,
			`pq: duplicate key value violates unique constraint "users_email_key2"`,
			`pq: duplicate key value violates unique constraint "users_\"odd\"_key"`,
		},
		"a duplicate": {
			"Error 1062 (23000): Duplicate entry 'ada@example.com' for key 'users.email'",
			"Error 1062 (23000): Duplicate entry 'O'Brien' for key 'users.name'",
			`Error 1062 (23000): Duplicate entry '' for key 'users.na\'me'`,
		},
		"a value that does not parse": {
			`strconv.ParseInt: parsing "abc": invalid syntax`, `strconv.ParseInt: parsing "": invalid syntax`, "strconv.ParseInt: parsing `\"`: invalid syntax",
		},
		"JSON that does not parse": {
			`invalid character 'x' looking for beginning of value at offset 17`, `invalid character '"' looking for beginning of value at offset 5`,
			`invalid character '\'' looking for beginning of value at offset 1234`, `invalid character '\\' looking for beginning of value at offset 0`,
		},
		"a quote in a quote": {`want '"' after "key"`, `want 'x' after "it's"`, "want '`' after \"`\""},
		"other quotes":       {"no “users”, no ‘mail’, no «rôle»", "no “”, no ‘it is’, no «x»"},
		"JSON":               {`got {"id":"a","n":1}`, `got {"id":"b \" c","n":234}`},
		"a request": {
			`Post "https://api.example.com/v1/charges?id=7": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`,
			`Post "https://api.example.com/v1/refunds": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`,
		},
		"a URL": {
			"fetch https://example.com/a/b?c=d#e: EOF", "fetch http://127.0.0.1:8080/: EOF", "fetch s3://bucket/key: EOF",
		},
		"a URL in a text":   {"see (https://example.com/a), please", "see (https://example.com/b/c), please"},
		"an e-mail address": {"no user ada@example.com", "no user grace.hopper+x@mail.example.org", "no user ünï@exämple.de"},
		"a UUID": {
			"order 0197c1d2-7c1e-7d0a-b6a0-3f5e8f0c1b2a not found", "order 550E8400-E29B-41D4-A716-446655440000 not found",
			"order deadbeef-dead-beef-dead-deadbeefdead not found",
		},
		"an id":               {"charge ch_3Nabc: declined", "charge ch_1XYZ99: declined"},
		"a ULID":              {"order 01ARZ3NDEKTSV4RRFFQ69G5FAV is gone", "order 01BX5ZZKBKACTAV9WEVGEMMVRZ is gone"},
		"an id with dashes":   {"pod web-7d9f8b6c5-x2x9z is gone", "pod web-5b6c7d8e9-1abcd is gone"},
		"a number":            {"index out of range [5] with length 3", "index out of range [12] with length 0"},
		"a fraction":          {"took 1.5 of 2", "took 17 of 2.25", "took 1e+06 of 3,000.5"},
		"numbers in a row":    {"ids 1, 2 and 3", "ids 12, 7, 9 and 3", "ids 1 and 3"},
		"a pointer":           {"nil pointer dereference [code=0x1 addr=0x18 pc=0x6f2a4c]", "nil pointer dereference [code=0x1 addr=0x0 pc=0xdeadbeef]"},
		"a duration":          {"the timeout of 1m0s was over: EOF", "the timeout of 300ms was over: EOF", "the timeout of 1.5s was over: EOF", "the timeout of 12.3µs was over: EOF"},
		"a numeral of others": {"count ٣", "count 3", "count Ⅷ", "count ½"},
		"a time, by RFC 3339": {
			"not before 2026-07-01T12:00:00Z", "not before 2026-07-01T12:00:00.123456+02:00", "not before 1999-12-31 23:59:59 -0700",
		},
		"a time, by RFC 1123": {"not before Wed, 01 Jul 2026 12:00:00 GMT", "not before Sat, 31 May 2025 01:02:03 GMT"},
		"a time, by RFC 850":  {"not before Wednesday, 01-Jul-26 12:00:00 GMT", "not before Saturday, 31-May-25 01:02:03 GMT"},
		"a time, by Unix":     {"not before Wed Jul  1 12:00:00 2026", "not before Sat May 31 01:02:03 2025"},
		"seconds since 1970":  {"not before 1782907200", "not before 1782907200.123"},
		"a date":              {"closed on July 1, 2026", "closed on 31 May 2025", "closed on March 2nd"},
		"a time of day":       {"not at 12:30", "not at 3:04PM"},
		"a time as Go prints it": {
			"since 2026-07-01 12:00:00.123456789 +0000 UTC m=+0.000000001", "since 2025-01-31 01:02:03 +0000 UTC m=+123.4",
		},
		"a map":       {"bad map[a:1 b:2]", "bad map[a:17 b:0]"},
		"white space": {"down:\n\tagain", "down:  again\u00a0", "  down: again\r\n", "down:\u2028again"},
		"a line of many": {
			"2 errors:\n  user \"ada\": gone\n  user \"eve\": gone", "2 errors:\n  user \"\": gone\n  user \"a\nb\": gone",
		},
		"bytes": {"bad byte \xff", "bad byte \xfe\xfd"},
	} {
		for _, other := range messages[1:] {
			require.True(t, alike(messages[0], other), "%s:\n%s\n%s\n%s\n%s", name, messages[0], other, MessagePattern(messages[0]), MessagePattern(other))
		}
	}
}

func TestFailuresOfDifferentCausesAreNot(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{
		{"", "down"},
		{"dial tcp 10.0.0.1:5432: connect: connection refused", "dial tcp 10.0.0.1:5432: connect: no route to host"},
		{"dial tcp 10.0.0.1:5432: i/o timeout", "dial udp 10.0.0.1:5432: i/o timeout"},
		{"dial tcp redis:6379: connection refused", "dial tcp postgres:5432: connection refused"},
		{"lookup redis: no such host", "lookup postgres: no such host"},
		{"lookup order: not found", "lookup user: not found"},
		{"read tcp 10.0.0.1:1->10.0.0.2:2: EOF", "write tcp 10.0.0.1:1->10.0.0.2:2: EOF"},
		{"550 5.1.1 mailbox does not exist", "452 4.2.2 mailbox full"},
		{`Get "https://example.com": EOF`, `Post "https://example.com": EOF`},
		{`Get "https://example.com": EOF`, `Get "https://example.com": context deadline exceeded`},
		{"context deadline exceeded", "context canceled"},
		{`pq: duplicate key value violates unique constraint "a"`, `pq: insert violates foreign key constraint "a"`},
		{"unexpected end of JSON input", "invalid character 'x' after top-level value"},
		{"status:500", "attempt:500"},
		{"code=1", "line=1"},
		{"Mark 5 failed", "Decode 5 failed"},
		{"Marshal 5 failed", "May 5 failed"},
		{"May be down", "June be down"},
		{"the Sun is down", "the Mon is down"},
		{"HTTP/2: stream closed", "SMTP/2: stream closed"},
		{"user.go: broken", "order.go: broken"},
		{"User.Email is required", "User.Name is required"},
		{"std::map is empty", "std::set is empty"},
		{"map[red:bad]", "map[red:fine]"},
		{"can't open 'a', won't wait", "can't close 'a', won't wait"},
		{"can't open the users' mailbox", "can't close the users' mailbox"},
		{"it isn't there and can't be sent", "it isn't there and won't be sent"},
		{`the "a" isn't a "b"`, `the "a" was a "b"`},
		{`"ada"'s mailbox isn't there`, `"ada"'s account isn't there`},
		{"not sent: mailbox full", "sent: mailbox full"},
		{`5" disk: broken`, `5" disk: full`},
		{"an unclosed 'quote: broken", "an unclosed 'quote: full"},
		{"an unclosed `quote: broken", "an unclosed `quote: full"},
		{"a\nb", "a\nc"},
	} {
		require.False(t, alike(pair[0], pair[1]), "%s\n%s\n%s", pair[0], pair[1], MessagePattern(pair[0]))
	}
}

func TestFailuresOfOtherHandlersAndKindsAreNotAlike(t *testing.T) {
	t.Parallel()
	fingerprints := map[string]bool{}
	for _, handler := range []string{"mail", "mail2", "", "mailerror"} {
		for _, kind := range []Kind{KindError, KindPermanent, KindTimeout, ""} {
			for _, message := range []string{"down", "up", "error", ""} {
				fingerprints[Fingerprint(handler, kind, message)] = true
			}
		}
	}
	require.Len(t, fingerprints, 4*4*4)
	require.Equal(t, Fingerprint("mail", KindError, "down"), NewFailure("mail", KindError, "down").Fingerprint)
}

func TestTheGistSaysWhatHappened(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]string{
		"dial tcp 10.0.0.1:5432: connect: connection refused":                             "dial tcp #: connect: connection refused",
		`Post "https://example.com/x": context deadline exceeded`:                         `Post *: context deadline exceeded`,
		"can't send to 'ada', it won't take it; the user's mailbox isn't 'there'":         "can't send to *, it won't take it; the user's mailbox isn't *",
		"452 4.2.2 <ada@example.com>: mailbox full":                                       "# <#>: mailbox full",
		"not before Wed, 01 Jul 2026 12:00:00 GMT, or 2026-07-01T12:00:00Z":               "not before # GMT, or #",
		"May I March on? The Sun is down on Monday, but Mark and Decode are up":           "May I March on? The Sun is down on Monday, but Mark and Decode are up",
		"HTTP/2 said: status:500":                                                         "HTTP/# said: status:#",
		"order 0197c1d2-7c1e-7d0a-b6a0-3f5e8f0c1b2a of main.go:12:\n\tgone":               "order # of #: gone",
		`pq: duplicate key value violates unique constraint "users_email_key"`:            "pq: duplicate key value violates unique constraint *",
		"runtime error: index out of range [5] with length 3":                             "runtime error: index out of range [#] with length #",
		"json: cannot unmarshal string into Go struct field User.email of type time.Time": "json: cannot unmarshal string into Go struct field User.email of type time.Time",
	} {
		require.Equal(t, want, MessagePattern(message))
	}
}

func TestAMessageThatWasCutIsLikeTheWholeOne(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("Lorem ipsum, \\\"dolor\\\" sit 'amet. ", 1000)
	for _, message := range []string{
		"short", "with a \x00 NUL", "with a bad byte: \xff\xfe", strings.Repeat("word ", 5000), strings.Repeat("é\xff", 5000), "é" + strings.Repeat("é", 5000),
		`unexpected answer "` + body + `" of server 7`,
	} {
		kept := sqldb.Printable(message, sqldb.MaxMessage)
		require.Equal(t, Fingerprint("mail", KindError, message), Fingerprint("mail", KindError, kept), "%.100q", message)
	}
	for i := range 3 { // wherever it was cut: in an escape, too
		require.True(t, alike(
			`unexpected answer "`+strings.Repeat("x", i)+strings.Repeat(`\\\"`, 5000)+`"`,
			`unexpected answer "`+body+`"`), "a quote without its end is a quote all the same")
	}
	require.True(t, alike("unexpected answer 'a "+strings.Repeat("b ", 5000)+"'", "unexpected answer 'c "+strings.Repeat("d ", 6000)+"'"))
}

func TestAVeryLongMessageIsFingerprinted(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"a", "7", `"`, "'", " '", "`", "a:", "a.b-", "@", "#@", "[:", "a@b", "http://", "\xff", "\x00", "Mon, ", `\`, `"\`} {
		gist := MessagePattern(strings.Repeat(part, 10<<20/len(part)))
		require.LessOrEqual(t, len(gist), sqldb.MaxMessage)
	}
}

// messages draws texts that are made of what errors are made of.
var messages = rapid.Map(rapid.SliceOfN(rapid.OneOf(
	rapid.SampledFrom([]string{
		`"`, `'`, "`", `\`, "“", "”", "‘", "’", "«", "»", " ", "  ", "\n", "\u00a0", "\u2028", "\x85", ":", "::", ".", ",", ";", "/", "-", "_", "+", "%", "=", "<", ">", "(", ")", "[", "]", "{", "}",
		"@", "#", "*", "$1", "://", "http://", "x", "é", "µ", "can't", "a@b.c", "a.b", "lookup ", "Mon", "Monday, ", "Jan", "May ", "deadbeef", "-dead-", "fe80", "… (cut)",
		"0", "7", "42", "٣", "½", "0x7f", "1.2.3.4", "[::1]:80", "a.b:1", "\xff", "\x00", "\u0301", "😀",
		"0197c1d2-7c1e-7d0a-b6a0-3f5e8f0c1b2a", "2026-07-01T12:00:00Z", "1m0s",
	}),
	rapid.String(),
), 0, 30), func(parts []string) string { return strings.Join(parts, "") })

func TestAGistIsWithoutValues(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) { requireGist(t, messages.Draw(t, "message")) })
}

func TestOtherDigitsMakeNoDifference(t *testing.T) {
	t.Parallel()
	digit := regexp.MustCompile(`[0-9]`)
	rapid.Check(t, func(t *rapid.T) {
		message := messages.Draw(t, "message")
		renumbered := digit.ReplaceAllStringFunc(message, func(string) string {
			return fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "digit"))
		})
		require.Equal(t, MessagePattern(message), MessagePattern(renumbered), "%q, %q", message, renumbered)
	})
}

// requireGist requires what holds for the gist of any message.
func requireGist(t require.TestingT, message string) {
	gist := MessagePattern(message)
	require.Equal(t, -1, strings.IndexFunc(gist, unicode.IsDigit), "%q: %q", message, gist)
	require.Equal(t, gist, MessagePattern(gist), "%q", message)
	require.True(t, utf8.ValidString(gist))
	require.NotContains(t, gist, "\x00")
	require.NotContains(t, gist, "\n")
	require.LessOrEqual(t, len(gist), sqldb.MaxMessage)
	require.Equal(t, gist, MessagePattern(sqldb.Printable(message, sqldb.MaxMessage)), "%q", message)
}

func FuzzMessagePattern(f *testing.F) {
	for _, message := range []string{
		"", "dial tcp [::1]:80: connect: connection refused", `Get "https://example.com/?a=1": EOF`, `" 'x'`, "5'a' 'b", `"\`, "'\\", "'O'Brien' isn't", "“x", "`a\\`\"",
		"550 5.1.1 <ada@example.com>: no such user id-20020a", "Wed, 01 Jul 2026 12:00:00 GMT", "May 2nd", "1st May", "a@@b@c #@", "fe80::1%eth0", "\xff\x00\x85", "\u00a0'a'",
		"٣Mon½", "… (cut)", `"… (cut)`, "lookup a.b.c:1", "x://y://z", strings.Repeat(`""`, sqldb.MaxMessage/2), strings.Repeat("é", sqldb.MaxMessage), strings.Repeat("a\xff", sqldb.MaxMessage/2),
	} {
		f.Add(message)
	}
	f.Fuzz(func(t *testing.T, message string) {
		requireGist(t, message)
		renumbered := strings.Map(func(r rune) rune {
			if '0' <= r && r <= '9' {
				return '0' + ('9'-r)*7%10
			}
			return r
		}, message)
		if utf8.ValidString(message) { // Map makes three bytes of a bad one
			require.Equal(t, Fingerprint("mail", KindError, message), Fingerprint("mail", KindError, renumbered))
		}
	})
}
