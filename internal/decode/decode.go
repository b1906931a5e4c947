// Package decode decodes payloads that are not JSON into JSON for people, and encodes
// what people write.
package decode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

// Decoder decodes payloads that are not JSON, with the application's marshaler and the
// Go types of its events. The zero Decoder knows no types.
type Decoder struct {
	config    string // name of the configuration, for errors
	marshaler cqrs.CommandEventMarshaler
	types     map[string]reflect.Type // by topic; a payload is decoded into a pointer to the type
}

// New returns a decoder for the payloads of these events: of each type an event, or a
// pointer to one. config is the name of the configuration that has them as its
// Marshaler and Events; errors name it.
func New(config string, marshaler cqrs.CommandEventMarshaler, events []any) (Decoder, error) {
	d := Decoder{config, marshaler, map[string]reflect.Type{}}
	if d.marshaler == nil {
		if len(events) > 0 {
			return d, fmt.Errorf("%s.Events without a Marshaler: set it to the one of bus.Config", config)
		}
		return d, nil
	}
	for i, event := range events {
		topic, err := handlers.Topic(d.marshaler, event)
		if err != nil {
			return d, fmt.Errorf("%s.Events[%d]: %w", config, i, err)
		}
		of := reflect.TypeOf(event)
		for of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if known, twice := d.types[topic]; twice && known != of {
			return d, fmt.Errorf("%s.Events: %v and %v have the topic %q: leave one of them out", config, known, of, topic)
		}
		d.types[topic] = of
	}
	return d, nil
}

// Ready reports whether the decoder has a marshaler.
func (d Decoder) Ready() bool { return d.marshaler != nil }

// Decoded is a payload as JSON. The zero value means that the payload needs no
// decoding, or that the program has no decoder.
type Decoded struct {
	JSON []byte
	Type string // the Go type
	Err  error  // why decoding failed
}

// Decode decodes a payload that is not JSON.
func (d Decoder) Decode(e store.Event, payload []byte) Decoded {
	if d.marshaler == nil || json.Valid(payload) {
		return Decoded{}
	}
	of, known := d.types[e.Topic]
	if !known {
		return Decoded{Err: fmt.Errorf("%s.Events has no event of topic %q", d.config, e.Topic)}
	}
	v, err := d.unmarshal(of, e, payload)
	if err != nil {
		return Decoded{Err: err}
	}
	text, err := toJSON(v)
	return Decoded{text, of.String(), err}
}

// unmarshal turns a panic of the application's code into an error.
func (d Decoder) unmarshal(of reflect.Type, e store.Event, payload []byte) (v any, err error) {
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

// Encode returns the payload for an edited decoded payload. It is an error if the type
// does not know a part of the original payload, which would be lost.
func (d Decoder) Encode(e store.Event, was Decoded, edited []byte) ([]byte, error) {
	original, err := d.unmarshal(d.types[e.Topic], e, e.Payload)
	if err != nil {
		return nil, err
	}
	whole, err := d.again(original, nil, e)
	if err != nil {
		return nil, err
	}
	through, err := d.again(nil, was.JSON, e)
	if err != nil {
		return nil, err
	}
	if len(whole) != len(through) {
		return nil, fmt.Errorf("the payload has something that %s does not know, such as a newer field, and that this would lose: give the new payload with --payload FILE", was.Type)
	}
	return d.again(nil, edited, e)
}

// Written returns the payload for text that a person has written for a topic. Text that
// the marshaler decodes stays unchanged. JSON that fits the topic's type is encoded.
// Anything else is an error. For a topic of an unknown type, Written returns the text
// unchanged.
func (d Decoder) Written(topic string, payload []byte) ([]byte, error) {
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
func (d Decoder) again(v any, text []byte, e store.Event) ([]byte, error) {
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
