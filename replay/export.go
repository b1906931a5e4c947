package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/internal/visible"
	"github.com/reprise-bus/reprise/store"
)

// Document is a run with its event and its failed attempts, taken out of the database
// to reproduce the failure elsewhere. It is as confidential as the event's payload.
type Document struct {
	run      store.Run
	event    store.Event
	attempts []store.Attempt
}

// Export returns the document of a run, or store.ErrNotFound. It is also an error if
// the run's event is no longer in the database.
func Export(ctx context.Context, st *store.Store, runID int64) (Document, error) {
	run, err := st.Run(ctx, runID)
	if err != nil {
		return Document{}, fmt.Errorf("export: %w", err)
	}
	event, err := st.Event(ctx, run.Topic, run.EventID)
	if errors.Is(err, store.ErrNotFound) { // the run was found
		return Document{}, fmt.Errorf("export: run %d: its event %q of topic %q is no longer in the database, and a run without its event cannot be exported", runID, run.EventID, run.Topic)
	}
	if err != nil {
		return Document{}, fmt.Errorf("export: run %d: %w", runID, err)
	}
	attempts, err := st.Attempts(ctx, runID)
	if err != nil {
		return Document{}, fmt.Errorf("export: %w", err)
	}
	run.Instance, run.ReplayID = "", 0
	return Document{run, event, attempts}, nil
}

// Run returns the run without Instance and ReplayID, which mean nothing outside of its
// database.
func (d Document) Run() store.Run { return d.run }

// Event returns the event with the exact bytes of its payload.
func (d Document) Event() store.Event { return d.event }

// Attempts returns the failed and abandoned attempts, oldest first.
func (d Document) Attempts() []store.Attempt { return slices.Clone(d.attempts) }

// exportVersion changes when a reader of the previous version would be misled.
const exportVersion = 1

// The document as it is written.
type (
	exported struct {
		Version  int               `json:"reprise_export"`
		Run      exportedRun       `json:"run"`
		Event    exportedEvent     `json:"event"`
		Attempts []exportedAttempt `json:"attempts"`
	}
	exportedRun struct {
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
	exportedEvent struct {
		ID          string            `json:"id"`
		Topic       string            `json:"topic"`
		Key         string            `json:"key,omitempty"`
		Metadata    map[string]string `json:"metadata,omitempty"`
		Source      string            `json:"source,omitempty"`
		Amends      string            `json:"amends,omitempty"`
		PublishedAt time.Time         `json:"published_at,omitzero"`
		exportedPayload
	}
	exportedAttempt struct {
		Number     int        `json:"number"`
		Cycle      int        `json:"cycle"`
		Kind       store.Kind `json:"kind"`
		Message    string     `json:"message"`
		Stack      string     `json:"stack,omitempty"`
		Instance   string     `json:"instance,omitempty"`
		StartedAt  time.Time  `json:"started_at,omitzero"`
		FinishedAt time.Time  `json:"finished_at,omitzero"`
	}
	// exportedPayload holds the payload in the first of these forms that keeps its
	// bytes.
	exportedPayload struct {
		JSON   json.RawMessage `json:"payload,omitempty"`
		Text   *string         `json:"payload_text,omitempty"`
		Base64 *[]byte         `json:"payload_base64,omitempty"`
	}
)

// WriteTo implements io.WriterTo. It writes the document as indented JSON; equal
// documents give equal bytes. Control characters and other invisible characters become
// \u escapes.
func (d Document) WriteTo(w io.Writer) (int64, error) {
	out := &escaping{to: w} // the encoder writes once
	to := json.NewEncoder(out)
	to.SetEscapeHTML(false)
	to.SetIndent("", "  ")
	if err := to.Encode(d.exported(survivesIndenting)); err != nil {
		return out.n, fmt.Errorf("write exported run %d: %w", d.run.ID, err)
	}
	return out.n, nil
}

// escaping writes JSON with \u escapes and counts the bytes that it writes. Each Write
// must end at a character boundary.
type escaping struct {
	to io.Writer
	n  int64
}

func (e *escaping) Write(b []byte) (int, error) {
	n, err := io.WriteString(e.to, visible.JSON(string(b)))
	e.n += int64(n)
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// MarshalJSON implements json.Marshaler. The result keeps the payload's bytes. WriteTo
// writes more payloads as readable JSON.
func (d Document) MarshalJSON() ([]byte, error) {
	return json.Marshal(d.exported(func(payload []byte) bool {
		var escaped bytes.Buffer // an encoder around this one may escape HTML characters
		json.HTMLEscape(&escaped, payload)
		return bytes.Equal(escaped.Bytes(), payload) && survivesIndenting(payload)
	}))
}

func (d Document) exported(inline func(payload []byte) bool) exported {
	r, e := d.run, d.event
	x := exported{
		Version: exportVersion,
		Run: exportedRun{
			ID: r.ID, Handler: r.Handler, Topic: r.Topic, Status: r.Status, Attempt: r.Attempt, Tries: r.Tries, Cycle: r.Cycle,
			ErrorKind: r.ErrorKind, Error: r.Error, Fingerprint: r.Fingerprint,
			DueAt: r.DueAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
		},
		Event: exportedEvent{
			ID: e.ID, Topic: e.Topic, Key: e.Key, Metadata: e.Metadata, Source: e.Source, Amends: e.Amends, PublishedAt: e.PublishedAt,
		},
		Attempts: make([]exportedAttempt, len(d.attempts)),
	}
	switch {
	case inline(e.Payload):
		x.Event.JSON = e.Payload
	case utf8.Valid(e.Payload):
		text := string(e.Payload)
		x.Event.Text = &text
	default:
		x.Event.Base64 = &e.Payload
	}
	for i, a := range d.attempts {
		x.Attempts[i] = exportedAttempt{
			Number: a.Attempt, Cycle: a.Cycle, Kind: a.Kind, Message: a.Message, Stack: a.Stack,
			Instance: a.Instance, StartedAt: a.StartedAt, FinishedAt: a.FinishedAt,
		}
	}
	return x
}

// survivesIndenting reports whether the payload can stand indented in a document and be
// read back byte for byte: it is compact JSON without a character that WriteTo escapes,
// and not deeply nested.
func survivesIndenting(payload []byte) bool {
	var compact bytes.Buffer
	return utf8.Valid(payload) && visible.JSON(string(payload)) == string(payload) && json.Compact(&compact, payload) == nil &&
		bytes.Equal(compact.Bytes(), payload) && !deeplyNested(payload)
}

// maxIndent is the nesting depth up to which a payload is indented. The space for
// indentation grows with the square of the depth.
const maxIndent = 100

func deeplyNested(valid []byte) bool {
	tokens := json.NewDecoder(bytes.NewReader(valid))
	tokens.UseNumber()
	for depth := 0; depth <= maxIndent; {
		token, err := tokens.Token()
		if err != nil {
			return err != io.EOF
		}
		switch token {
		case json.Delim('['), json.Delim('{'):
			depth++
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
	}
	return true
}

// ReadDocument reads a document that WriteTo has written, also if it was edited by hand
// since. An unknown field is an error.
func ReadDocument(r io.Reader) (Document, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return Document{}, fmt.Errorf("read exported run: %w", err)
	}
	var d Document
	if err := d.UnmarshalJSON(b); err != nil {
		return Document{}, fmt.Errorf("read exported run: %w", err)
	}
	return d, nil
}

// UnmarshalJSON implements json.Unmarshaler. It is as strict as ReadDocument.
func (d *Document) UnmarshalJSON(b []byte) error {
	var head struct {
		Version json.RawMessage `json:"reprise_export"`
	}
	switch err := json.Unmarshal(b, &head); {
	case !utf8.Valid(b):
		return errors.New("it is not valid UTF-8")
	case err != nil:
		return err
	case head.Version == nil:
		return errors.New(`it has no field "reprise_export": want a document as replay.Export makes it`)
	case string(head.Version) != fmt.Sprint(exportVersion):
		return fmt.Errorf(`field "reprise_export" %.20s: this program reads version %d: export the run again with a program of this version`, head.Version, exportVersion)
	}
	var x exported
	from := json.NewDecoder(bytes.NewReader(b))
	from.DisallowUnknownFields()
	if err := from.Decode(&x); err != nil {
		return err
	}
	payload, err := x.Event.bytes()
	if err != nil {
		return err
	}
	r, e := x.Run, x.Event
	read := Document{
		run: store.Run{
			ID: r.ID, EventID: e.ID, Topic: r.Topic, Handler: r.Handler, Status: r.Status, Attempt: r.Attempt, Tries: r.Tries, Cycle: r.Cycle,
			Key: e.Key, DueAt: r.DueAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
			ErrorKind: r.ErrorKind, Error: r.Error, Fingerprint: r.Fingerprint, PublishedAt: e.PublishedAt,
		},
		event: store.Event{
			ID: e.ID, Topic: e.Topic, Key: e.Key, Payload: payload, Metadata: e.Metadata,
			Source: e.Source, Amends: e.Amends, PublishedAt: e.PublishedAt,
		},
	}
	for _, a := range x.Attempts {
		read.attempts = append(read.attempts, store.Attempt{
			RunID: r.ID, Attempt: a.Number, Cycle: a.Cycle, Kind: a.Kind, Message: a.Message, Stack: a.Stack,
			Instance: a.Instance, StartedAt: a.StartedAt, FinishedAt: a.FinishedAt,
		})
	}
	if err := read.validate(); err != nil {
		return err
	}
	*d = read
	return nil
}

// bytes returns the payload, of which exactly one form must be set.
func (p exportedPayload) bytes() ([]byte, error) {
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

func (d Document) validate() error {
	if d.run.Handler == "" {
		return errors.New("the run names no handler")
	}
	if d.run.Topic != d.event.Topic {
		return fmt.Errorf("the run is of topic %q, and its event of topic %q", d.run.Topic, d.event.Topic)
	}
	if _, err := store.ParseStatus(string(d.run.Status)); err != nil {
		return fmt.Errorf("the run: %w", err)
	}
	return d.event.Validate()
}
