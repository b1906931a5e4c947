package wire

import (
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Message is a message of the outbox.
type Message struct {
	ID        int64               `json:"id"`
	State     store.OutgoingState `json:"state"`
	Topic     string              `json:"topic"`
	Key       string              `json:"key"`
	Event     string              `json:"event"`
	Failures  int                 `json:"failures"`
	Error     string              `json:"error"`
	Operation int64               `json:"operation"`
	WrittenAt *time.Time          `json:"written_at"`
	SentAt    *time.Time          `json:"sent_at"`
}

// NewMessage returns the shape of a message.
func NewMessage(o store.Outgoing) Message {
	return Message{
		ID: o.ID, State: o.State, Topic: o.Event.Topic, Key: o.Event.Key, Event: o.Event.ID, Failures: o.Failures, Error: o.Error,
		Operation: o.OperationID, WrittenAt: timeOf(o.Event.PublishedAt), SentAt: timeOf(o.SentAt),
	}
}

// Messages is a page of messages.
type Messages struct {
	Messages []Message `json:"messages"`
	Next     *int64    `json:"next"` // store.OutboxFilter.Before of the next page; null: this is the last page
}

// NewMessages returns the shape of a page. next is 0 for the last page.
func NewMessages(messages []store.Outgoing, next int64) Messages {
	return Messages{listOf(messages, NewMessage), numberOf(next)}
}

// MessageCount is the number of messages of a topic in one state.
type MessageCount struct {
	Topic    string              `json:"topic"`
	State    store.OutgoingState `json:"state"`
	Messages int64               `json:"messages"`
	OldestAt *time.Time          `json:"oldest_at"`
	Error    string              `json:"error"`
}

// NewMessageCount returns the shape of a count.
func NewMessageCount(c store.OutboxCount) MessageCount {
	return MessageCount{c.Topic, c.State, c.N, timeOf(c.Oldest), c.Error}
}

// OutboxStatus is what is not sent, and who sends.
type OutboxStatus struct {
	Relay  string         `json:"relay"` // "": none
	Counts []MessageCount `json:"counts"`
}

// NewOutboxStatus returns the shape of what is not sent. relay is the instance that
// sends; "" for none.
func NewOutboxStatus(relay string, counts []store.OutboxCount) OutboxStatus {
	return OutboxStatus{relay, listOf(counts, NewMessageCount)}
}
