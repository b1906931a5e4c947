package nats

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"

	"github.com/nats-io/nats.go"
)

// checkTopic returns an error for a topic that is no subject to publish on.
func checkTopic(topic string) error {
	for token := range strings.SplitSeq(topic, ".") {
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '*' || r == '>' }) || topic[0] == '$' {
			return fmt.Errorf("topic %q: want a subject, words with dots in between, without spaces, * and >, and no $ first: %w", topic, nats.ErrBadSubject)
		}
	}
	return nil
}

// named returns text as a valid name of a stream or a consumer. Different texts give
// different names.
func named(text string) string {
	clean := strings.Map(func(r rune) rune {
		if noName(r) {
			return '_'
		}
		return r
	}, text)
	const most = 100
	if len(clean) > most {
		clean = clean[:most]
	}
	if clean == text && text != "" && !regexp.MustCompile(`-[0-9a-f]{10}$`).MatchString(text) {
		return text
	}
	return fmt.Sprintf("%s-%x", clean, sha256.Sum256([]byte(text)))[:len(clean)+11]
}

// noName reports whether a name should not contain the character. The server allows more
// characters than other programs do.
func noName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}
