package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
)

// Insert returns the one statement that writes events of one topic and a due
// run for each of its subscriptions. Its rows are the ids of the events that
// were not in the database yet; CheckDuplicates looks at the others.
//
// The caller runs it, in a transaction of its own or not, and bounds its size:
// a few thousand events and a few MiB of payload make a good statement.
func (s *Store) Insert(events []Event) (query string, args []any, err error) {
	for i := range events {
		if err := events[i].validate(); err != nil {
			return "", nil, err
		}
	}
	query, args = s.dialect.insert(events)
	return s.compose(query), args, nil
}

// CheckDuplicates looks at the events that Insert did not return in inserted.
// Publishing an event again is no error, whatever became of its runs; another
// payload under an id that the topic has already is ErrDuplicateID.
func (s *Store) CheckDuplicates(ctx context.Context, q Queryer, events []Event, inserted []string) error {
	known := make(map[string]Event, len(events))
	for _, e := range events {
		if first, twice := known[e.ID]; twice && !bytes.Equal(first.Payload, e.Payload) {
			return fmt.Errorf("event %q stands twice in one publish, with different payloads: %w", e.ID, ErrDuplicateID)
		}
		known[e.ID] = e
	}
	for _, id := range inserted {
		delete(known, id)
	}
	for id, e := range known {
		stored, err := s.event(ctx, q, e.Topic, id)
		if err != nil {
			return err
		}
		if !bytes.Equal(stored.Payload, e.Payload) {
			return fmt.Errorf("event %q: %w, published at %s with another payload: give each message an id of its own",
				id, ErrDuplicateID, stored.PublishedAt.Format("2006-01-02 15:04:05 MST"))
		}
	}
	return nil
}

// Queryer is a pool, a connection or a transaction.
type Queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// encoded is an event as its columns take it.
type encoded struct {
	text     string // the payload when it is JSON
	bytes    []byte // the payload otherwise
	json     bool
	metadata string
}

func encode(e Event) encoded {
	metadata := "{}"
	if len(e.Metadata) > 0 {
		b, _ := json.Marshal(e.Metadata) // a map of strings always marshals
		metadata = string(b)
	}
	if isJSON(e.Payload) {
		return encoded{text: string(e.Payload), json: true, metadata: metadata}
	}
	return encoded{bytes: append([]byte{}, e.Payload...), metadata: metadata}
}
