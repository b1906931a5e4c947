package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/reprise-bus/reprise/internal/visible"
	"github.com/reprise-bus/reprise/internal/wire"
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

// WriteTo implements io.WriterTo. It writes the document as indented JSON; equal
// documents give equal bytes. Control characters and other invisible characters become
// \u escapes.
func (d Document) WriteTo(w io.Writer) (int64, error) {
	out := &escaping{to: w} // the encoder writes once
	to := json.NewEncoder(out)
	to.SetEscapeHTML(false)
	to.SetIndent("", "  ")
	if err := to.Encode(d.shape(survivesIndenting)); err != nil {
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
	return json.Marshal(d.shape(func(payload []byte) bool {
		var escaped bytes.Buffer // an encoder around this one may escape HTML characters
		json.HTMLEscape(&escaped, payload)
		return bytes.Equal(escaped.Bytes(), payload) && survivesIndenting(payload)
	}))
}

func (d Document) shape(inline func(payload []byte) bool) wire.Document {
	return wire.NewDocument(d.run, d.event, d.attempts, inline(d.event.Payload))
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
	case string(head.Version) != fmt.Sprint(wire.DocumentVersion):
		return fmt.Errorf(`field "reprise_export" %.20s: this program reads version %d: export the run again with a program of this version`, head.Version, wire.DocumentVersion)
	}
	var shape wire.Document
	from := json.NewDecoder(bytes.NewReader(b))
	from.DisallowUnknownFields()
	if err := from.Decode(&shape); err != nil {
		return err
	}
	run, event, attempts, err := shape.Record()
	if err != nil {
		return err
	}
	read := Document{run, event, attempts}
	if err := read.validate(); err != nil {
		return err
	}
	*d = read
	return nil
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
