package kafka

import (
	"fmt"
	"regexp"

	"github.com/IBM/sarama"
)

// checkTopic returns an error for a name that no topic can have.
func checkTopic(topic string) error {
	if topic == "." || topic == ".." || !regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`).MatchString(topic) {
		return fmt.Errorf("kafka: topic %q: want 1 to 249 of a-z, A-Z, 0-9 and . _ -: %w", topic, sarama.ErrInvalidTopic)
	}
	return nil
}
