package kafka

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/IBM/sarama"
)

// scram is the client side of SCRAM (RFC 5802), without channel binding. Like Kafka's own
// client it uses the password as given, without SASLprep.
type scram struct {
	hash            func() hash.Hash
	nonce, password string
	first           string // the client's first message, without the header
	signature       []byte // expected signature of the server
	done            bool
}

func newSCRAM(mechanism string) *scram {
	if mechanism == sarama.SASLTypeSCRAMSHA512 {
		return &scram{hash: sha512.New, nonce: rand.Text()}
	}
	return &scram{hash: sha256.New, nonce: rand.Text()}
}

// Begin sets the user and the password.
func (s *scram) Begin(user, password, _ string) error {
	s.password = password
	s.first = "n=" + strings.NewReplacer("=", "=3D", ",", "=2C").Replace(user) + ",r=" + s.nonce
	return nil
}

// Step answers a challenge. The first challenge is empty.
func (s *scram) Step(challenge string) (string, error) {
	switch {
	case challenge == "":
		return "n,," + s.first, nil
	case s.signature == nil:
		return s.prove(challenge)
	default:
		return "", s.verify(challenge)
	}
}

// Done reports whether the server has proved that it knows the password, too.
func (s *scram) Done() bool { return s.done }

func (s *scram) prove(challenge string) (string, error) {
	const fewest = 4096
	said := attributes(challenge)
	salt, err := base64.StdEncoding.DecodeString(said["s"])
	iterations, err2 := strconv.Atoi(said["i"])
	if err := errors.Join(err, err2); err != nil {
		return "", fmt.Errorf("SCRAM: the server's challenge cannot be read: %w", err)
	}
	if nonce := said["r"]; len(nonce) <= len(s.nonce) || !strings.HasPrefix(nonce, s.nonce) || iterations < fewest {
		return "", errors.New("SCRAM: the server's challenge is not one for this client, or too weak")
	}
	salted, err := pbkdf2.Key(s.hash, s.password, salt, iterations, s.hash().Size())
	if err != nil {
		return "", fmt.Errorf("SCRAM: %w", err)
	}
	final := "c=biws,r=" + said["r"]
	all := s.first + "," + challenge + "," + final
	key := s.mac(salted, "Client Key")
	stored := s.hash()
	stored.Write(key)
	proof := s.mac(stored.Sum(nil), all)
	subtle.XORBytes(proof, proof, key)
	s.signature = s.mac(s.mac(salted, "Server Key"), all)
	return final + ",p=" + base64.StdEncoding.EncodeToString(proof), nil
}

func (s *scram) verify(challenge string) error {
	said := attributes(challenge)
	if reason := said["e"]; reason != "" {
		return fmt.Errorf("SCRAM: the server refuses: %s", reason)
	}
	shown, err := base64.StdEncoding.DecodeString(said["v"])
	if err != nil || !hmac.Equal(shown, s.signature) {
		return errors.New("SCRAM: the server does not know the password")
	}
	s.done = true
	return nil
}

func (s *scram) mac(key []byte, text string) []byte {
	h := hmac.New(s.hash, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func attributes(text string) map[string]string {
	all := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		all[name] = value
	}
	return all
}
