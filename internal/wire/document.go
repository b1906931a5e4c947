package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/store"
)

// DocumentVersion changes when a reader of the previous version would be misled.
const DocumentVersion = 1

// Document is an exported run with its event and its failed attempts. It stands under
// version control, is edited by hand and is read back. Therefore it has each value once
// and leaves out what is empty, unlike the other shapes.
type Document struct {
	Version  int               `json:"reprise_export"`
	Run      DocumentRun       `json:"run"`
	Event    DocumentEvent     `json:"event"`
	Attempts []DocumentAttempt `json:"attempts"`
}

// DocumentRun is the run of a Document.
type DocumentRun struct {
	ID          int64        `json:"id"`
	Handler     string       `json:"handler"`
	Topic       string       `json:"topic"`
	Status      store.Status `json:"status"`
	Attempt     int          `json:"attempt"`
	Tries       int          `json:"tries"`
	Cycle       int          `json:"cycle"`
	ErrorKind   store.Kind   `json:"error_kind,omitempty"`
	Error       string       `json:"error,omitempty"`
	Fingerprint string       `json:"fingerprint,omitempty"`
	DueAt       time.Time    `json:"due_at,omitzero"`
	StartedAt   time.Time    `json:"started_at,omitzero"`
	FinishedAt  time.Time    `json:"finished_at,omitzero"`
}

// DocumentEvent is the event of a Document.
type DocumentEvent struct {
	ID          string            `json:"id"`
	Topic       string            `json:"topic"`
	Key         string            `json:"key,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Source      string            `json:"source,omitempty"`
	Amends      string            `json:"amends,omitempty"`
	PublishedAt time.Time         `json:"published_at,omitzero"`
	DocumentPayload
}

// DocumentPayload is the payload of a Document, in the first of these forms that keeps
// its bytes.
type DocumentPayload struct {
	JSON   json.RawMessage `json:"payload,omitempty"`
	Text   *string         `json:"payload_text,omitempty"`
	Base64 *[]byte         `json:"payload_base64,omitempty"`
}

// DocumentAttempt is a failed or abandoned attempt of a Document.
type DocumentAttempt struct {
	Number     int        `json:"number"`
	Cycle      int        `json:"cycle"`
	Kind       store.Kind `json:"kind"`
	Message    string     `json:"message"`
	Stack      string     `json:"stack,omitempty"`
	Instance   string     `json:"instance,omitempty"`
	StartedAt  time.Time  `json:"started_at,omitzero"`
	FinishedAt time.Time  `json:"finished_at,omitzero"`
}

// NewDocument returns the shape of an exported run. inline says whether the payload
// keeps its bytes as a JSON value of the document.
func NewDocument(r store.Run, e store.Event, attempts []store.Attempt, inline bool) Document {
	return Document{
		Version: DocumentVersion,
		Run: DocumentRun{
			ID: r.ID, Handler: r.Handler, Topic: r.Topic, Status: r.Status, Attempt: r.Attempt, Tries: r.Tries, Cycle: r.Cycle,
			ErrorKind: r.ErrorKind, Error: r.Error, Fingerprint: r.Fingerprint,
			DueAt: r.DueAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
		},
		Event: DocumentEvent{
			ID: e.ID, Topic: e.Topic, Key: e.Key, Metadata: e.Metadata, Source: e.Source, Amends: e.Amends, PublishedAt: e.PublishedAt,
			DocumentPayload: newDocumentPayload(e.Payload, inline),
		},
		Attempts: listOf(attempts, func(a store.Attempt) DocumentAttempt {
			return DocumentAttempt{a.Attempt, a.Cycle, a.Kind, a.Message, a.Stack, a.Instance, a.StartedAt, a.FinishedAt}
		}),
	}
}

func newDocumentPayload(payload []byte, inline bool) DocumentPayload {
	switch {
	case inline:
		return DocumentPayload{JSON: payload}
	case utf8.Valid(payload):
		text := string(payload)
		return DocumentPayload{Text: &text}
	}
	return DocumentPayload{Base64: &payload}
}

// Record returns the run, the event and the attempts of the document. It is an error if
// the document does not have exactly one payload.
func (d Document) Record() (run store.Run, event store.Event, attempts []store.Attempt, err error) {
	payload, err := d.Event.bytes()
	if err != nil {
		return run, event, nil, err
	}
	r, e := d.Run, d.Event
	run = store.Run{
		ID: r.ID, EventID: e.ID, Topic: r.Topic, Handler: r.Handler, Status: r.Status, Attempt: r.Attempt, Tries: r.Tries, Cycle: r.Cycle,
		Key: e.Key, DueAt: r.DueAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
		ErrorKind: r.ErrorKind, Error: r.Error, Fingerprint: r.Fingerprint, PublishedAt: e.PublishedAt,
	}
	event = store.Event{
		ID: e.ID, Topic: e.Topic, Key: e.Key, Payload: payload, Metadata: e.Metadata,
		Source: e.Source, Amends: e.Amends, PublishedAt: e.PublishedAt,
	}
	for _, a := range d.Attempts {
		attempts = append(attempts, store.Attempt{
			RunID: r.ID, Attempt: a.Number, Cycle: a.Cycle, Kind: a.Kind, Message: a.Message, Stack: a.Stack,
			Instance: a.Instance, StartedAt: a.StartedAt, FinishedAt: a.FinishedAt,
		})
	}
	return run, event, attempts, nil
}

// bytes returns the payload, of which exactly one form must be set.
func (p DocumentPayload) bytes() ([]byte, error) {
	var forms [][]byte
	if p.JSON != nil {
		var compact bytes.Buffer
		if err := json.Compact(&compact, p.JSON); err != nil {
			return nil, fmt.Errorf("the event's payload: %w", err)
		}
		forms = append(forms, compact.Bytes())
	}
	if p.Text != nil {
		forms = append(forms, []byte(*p.Text))
	}
	if p.Base64 != nil {
		forms = append(forms, *p.Base64)
	}
	if len(forms) != 1 {
		return nil, fmt.Errorf(`the event has %d payloads: want one, in "payload", "payload_text" or "payload_base64"`, len(forms))
	}
	return forms[0], nil
}
