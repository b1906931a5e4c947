package reprisetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

// Published returns the events of type E's topic that were published by Publish and
// PublishTx, in order, as a handler gets them.
func Published[E any](b *Bus) []E {
	b.t.Helper()
	_, events := published[E](b, false)
	return events
}

// Sent returns the commands of type C that were sent by Send and SendTx, in order, as a
// handler gets them.
func Sent[C any](b *Bus) []C {
	b.t.Helper()
	_, commands := published[C](b, true)
	return commands
}

// RequirePublished returns the only event of type E's topic that was published. If there
// is none, or more than one, it ends the test.
func RequirePublished[E any](t testing.TB, b *Bus) E {
	t.Helper()
	topic, events := published[E](b, false)
	if len(events) != 1 {
		t.Fatalf("reprisetest: %d events %q were published, want one; published was %s", len(events), topic, b.inventory(false))
	}
	return events[0]
}

// RequireSent returns the only command of type C that was sent. If there is none, or more
// than one, it ends the test.
func RequireSent[C any](t testing.TB, b *Bus) C {
	t.Helper()
	topic, commands := published[C](b, true)
	if len(commands) != 1 {
		t.Fatalf("reprisetest: %d commands %q were sent, want one; sent was %s", len(commands), topic, b.inventory(true))
	}
	return commands[0]
}

func published[E any](b *Bus, commands bool) (topic string, events []E) {
	b.t.Helper()
	topic, err := handlers.Topic(b.settings.marshaler, new(E))
	if err != nil {
		b.t.Fatalf("reprisetest: %v", err)
	}
	decoder := handlers.New("", func(_ context.Context, e E) error { // E may be a pointer
		events = append(events, e)
		return nil
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.published {
		if e.Topic != topic || b.commands[e.EventID()] != commands {
			continue
		}
		event := decoder.NewEvent()
		msg := message.NewMessage(e.ID, e.Payload)
		msg.Metadata = e.Metadata
		if err := b.settings.marshaler.Unmarshal(msg, event); err != nil {
			b.t.Fatalf("reprisetest: event %q of topic %q does not decode into %T: %v", e.ID, topic, event, err)
		}
		_ = decoder.Handle(context.Background(), event)
	}
	return topic, events
}

// inventory lists how many events, or commands, of each topic were published.
func (b *Bus) inventory(commands bool) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	count := map[string]int{}
	var topics []string
	for _, e := range b.published {
		if b.commands[e.EventID()] != commands {
			continue
		}
		if count[e.Topic]++; count[e.Topic] == 1 {
			topics = append(topics, e.Topic)
		}
	}
	if len(topics) == 0 {
		return "nothing"
	}
	for i, topic := range topics {
		topics[i] = fmt.Sprintf("%d %q", count[topic], topic)
	}
	return strings.Join(topics, ", ")
}

// RequireFailed returns the result of the first FAILED run of the handler that the test
// has not required before. That run then does not fail the test. If there is none,
// RequireFailed ends the test.
func RequireFailed(t testing.TB, b *Bus, handler string) Result {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.failed, func(f *failedRun) bool { return f.run.Handler == handler && !f.expected })
	if i < 0 {
		t.Fatalf("reprisetest: no run of handler %q is FAILED%s", handler, b.others())
	}
	b.failed[i].expected = true
	return b.failed[i].result
}

// others names the handlers that have FAILED runs. mu must be held.
func (b *Bus) others() string {
	var names []string
	for _, f := range b.failed {
		if !f.expected && !slices.Contains(names, f.run.Handler) {
			names = append(names, f.run.Handler)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("; of %s there are some", strings.Join(names, ", "))
}

func (b *Bus) reportFailed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.failed {
		if !f.expected {
			b.t.Errorf("reprisetest: %s", f)
		}
	}
}

func (f *failedRun) String() string {
	failure := handlers.Failure(f.run.Handler, f.result.Err)
	text := fmt.Sprintf("the run of handler %q on event %q of topic %q is %s after attempt %d: %s: %s (if that is to be so, say RequireFailed)",
		f.run.Handler, f.run.EventID, f.run.Topic, store.Failed, f.result.Attempts[len(f.result.Attempts)-1].Attempt, failure.Kind, failure.Message)
	if failure.Stack != "" {
		text += "\n" + failure.Stack
	}
	return text
}
