package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

// decoder decodes payloads that are not JSON, with the application's marshaler and the
// Go types of its events. The zero decoder knows no types.
type decoder struct {
	marshaler cqrs.CommandEventMarshaler
	types     map[string]reflect.Type // by topic; a payload is decoded into a pointer to the type
}

func newDecoder(config Config) (decoder, error) {
	d := decoder{config.Marshaler, map[string]reflect.Type{}}
	if d.marshaler == nil {
		if len(config.Events) > 0 {
			return d, errors.New("cli.Config.Events without a Marshaler: set it to the one of bus.Config")
		}
		return d, nil
	}
	for i, event := range config.Events {
		topic, err := handlers.Topic(d.marshaler, event)
		if err != nil {
			return d, fmt.Errorf("cli.Config.Events[%d]: %w", i, err)
		}
		of := reflect.TypeOf(event)
		for of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if known, twice := d.types[topic]; twice && known != of {
			return d, fmt.Errorf("cli.Config.Events: %v and %v have the topic %q: leave one of them out", known, of, topic)
		}
		d.types[topic] = of
	}
	return d, nil
}

// decoded is a payload as JSON. The zero value means that the payload needs no
// decoding, or that this binary cannot decode it.
type decoded struct {
	json []byte
	of   string // the Go type
	err  error  // why decoding failed
}

// decode decodes a payload that is not JSON.
func (d decoder) decode(e store.Event, payload []byte) decoded {
	if d.marshaler == nil || json.Valid(payload) {
		return decoded{}
	}
	of, known := d.types[e.Topic]
	if !known {
		return decoded{err: fmt.Errorf("cli.Config.Events has no event of topic %q", e.Topic)}
	}
	v, err := d.unmarshal(of, e, payload)
	if err != nil {
		return decoded{err: err}
	}
	text, err := toJSON(v)
	return decoded{text, of.String(), err}
}

// unmarshal turns a panic of the application's code into an error.
func (d decoder) unmarshal(of reflect.Type, e store.Event, payload []byte) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decoding it panicked: %v", p)
		}
	}()
	msg := message.NewMessage(e.ID, payload)
	maps.Copy(msg.Metadata, e.Metadata)
	v = reflect.New(of).Interface()
	return v, d.marshaler.Unmarshal(msg, v)
}

// encode returns the payload for an edited decoded payload. It is an error if the type
// does not know a part of the original payload, which would be lost.
func (d decoder) encode(e store.Event, was decoded, edited []byte) ([]byte, error) {
	original, err := d.unmarshal(d.types[e.Topic], e, e.Payload)
	if err != nil {
		return nil, err
	}
	whole, err := d.again(original, nil, e)
	if err != nil {
		return nil, err
	}
	through, err := d.again(nil, was.json, e)
	if err != nil {
		return nil, err
	}
	if len(whole) != len(through) {
		return nil, fmt.Errorf("the payload has something that %s does not know, such as a newer field, and that this would lose: give the new payload with --payload FILE", was.of)
	}
	return d.again(nil, edited, e)
}

// written returns the payload for text that a person has written for a topic. Text that
// the marshaler decodes stays unchanged. JSON that fits the topic's type is encoded.
// Anything else is an error. For a topic of an unknown type, written returns the text
// unchanged.
func (d decoder) written(topic string, payload []byte) ([]byte, error) {
	of, known := d.types[topic]
	if !known {
		return payload, nil
	}
	e := store.Event{Topic: topic}
	_, err := d.unmarshal(of, e, payload)
	if err == nil {
		return payload, nil
	}
	if json.Valid(payload) {
		var encoded []byte
		if encoded, err = d.again(nil, payload, e); err == nil {
			return encoded, nil
		}
	}
	return nil, fmt.Errorf("the payload is no %v, the event of topic %q, as the marshaler writes it or as JSON: %w", of, topic, err)
}

// again marshals an event; if v is nil, the event in the JSON text.
func (d decoder) again(v any, text []byte, e store.Event) ([]byte, error) {
	if v == nil {
		v = reflect.New(d.types[e.Topic]).Interface()
		if err := fromJSON(text, v); err != nil {
			return nil, err
		}
	}
	msg, err := d.marshaler.Marshal(v)
	if err != nil {
		return nil, err
	}
	return msg.Payload, nil
}

func toJSON(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok {
		text, err := protojson.Marshal(m)
		if err != nil {
			return nil, err
		}
		var compact bytes.Buffer // protojson adds spaces at random
		err = json.Compact(&compact, text)
		return compact.Bytes(), err
	}
	return json.Marshal(v)
}

// fromJSON refuses a field that the type does not have, because it would be lost.
func fromJSON(text []byte, v any) error {
	if m, ok := v.(proto.Message); ok {
		return protojson.Unmarshal(text, m)
	}
	from := json.NewDecoder(bytes.NewReader(text))
	from.DisallowUnknownFields()
	return from.Decode(v)
}

// decodeShown decodes a payload if it was read completely.
func (d decoder) decodeShown(e store.EventHead, p payload) decoded {
	switch {
	case !p.read || d.marshaler == nil:
		return decoded{}
	case p.cut():
		return decoded{err: errors.New("it is not read to its end: --full does")}
	case e.MetadataUnread:
		return decoded{err: errors.New("its metadata is too large to be read: --full does")}
	}
	return d.decode(e.Event, p.bytes)
}

// printPayload prints the part of an event's payload that was read, decoded if
// possible.
func (a *app) printPayload(out io.Writer, e store.EventHead, p payload) {
	if !p.read {
		return
	}
	text, note := p.text(), ""
	switch is := a.decoder.decodeShown(e, p); {
	case is.err != nil:
		note = fmt.Sprintf("(not decoded: %s)\n", words.Line(is.err.Error()))
	case is.json != nil:
		text, note = pretty(is.json), fmt.Sprintf("(decoded from %d bytes of %s; -o json has them, too)\n", len(p.bytes), is.of)
	}
	fmt.Fprintf(out, "\nPAYLOAD\n%s\n%s", text, note)
}

// text returns a payload as a person edits it.
func (d decoder) text(e store.Event, payload []byte) string {
	if is := d.decode(e, payload); is.err == nil && is.json != nil {
		return pretty(is.json)
	}
	return pretty(payload)
}

// eventJSON returns an event in JSON, with the payload as stored and decoded.
func (a *app) eventJSON(e store.EventHead, p payload) eventJSON {
	data := newEventJSON(e, p)
	is := a.decoder.decodeShown(e, p)
	if data.Decoded = is.json; is.err != nil {
		data.DecodeError = is.err.Error()
	}
	return data
}
