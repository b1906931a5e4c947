package nats

import (
	"encoding/json"
	"fmt"
	"net/textproto"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/reprise-bus/reprise/store"
)

const (
	uuidHeader = "_watermill_message_uuid" // watermill-nats' WatermillUUIDHdr
	restHeader = "Reprise-Metadata"
)

// marshal returns the message in the form that goes to the server.
func marshal(topic string, msg *message.Message) *nats.Msg {
	header := nats.Header{}
	rest := map[string]string{}
	set := func(key, value string) {
		if carries(key, value) {
			header.Set(key, value)
		} else {
			rest[key] = value
		}
	}
	for key, value := range msg.Metadata {
		set(key, value)
	}
	if msg.UUID != "" {
		set(uuidHeader, msg.UUID)
		header.Set(nats.MsgIdHdr, duplicateID(topic, msg))
	}
	if len(rest) > 0 {
		text, _ := json.Marshal(rest) // strings always marshal
		header.Set(restHeader, string(text))
	}
	return &nats.Msg{Subject: topic, Header: header, Data: msg.Payload}
}

// carries reports whether a header returns the value unchanged and has no meaning for the
// server or its client.
func carries(key, value string) bool {
	switch key {
	case "", restHeader, "Status", "Description":
		return false
	}
	notKey := func(r rune) bool { return noName(r) && !strings.ContainsRune("!#$%&'*+.^`|~", r) }
	return !strings.ContainsFunc(key, notKey) && !strings.HasPrefix(strings.ToLower(key), "nats-") &&
		!strings.ContainsAny(value, "\r\n") && value == textproto.TrimString(value)
}

// duplicateID is the id by which the server recognises a message. The UUID alone is not
// enough: messages are passed on to other topics of the stream under the same UUID, and
// another payload or other metadata under a known UUID is another event.
func duplicateID(topic string, msg *message.Message) string {
	e := store.Event{Topic: topic, ID: msg.UUID, Payload: msg.Payload, Metadata: msg.Metadata}
	return e.Repeat().ID
}

// unmarshal returns the message, whatever its headers are.
func unmarshal(in jetstream.Msg) *message.Message {
	metadata := message.Metadata{}
	for key, values := range in.Headers() {
		switch key {
		case nats.MsgIdHdr, nats.ExpectedLastMsgIdHdr, nats.ExpectedStreamHdr, nats.ExpectedLastSubjSeqHdr, nats.ExpectedLastSeqHdr:
		default:
			metadata[key] = strings.Join(values, ", ")
		}
	}
	rest := map[string]string{}
	if err := json.Unmarshal([]byte(metadata[restHeader]), &rest); err == nil {
		delete(metadata, restHeader)
		for key, value := range rest {
			metadata[key] = value
		}
	}
	id := metadata[uuidHeader]
	delete(metadata, uuidHeader)
	if id == "" {
		id = place(in)
	}
	msg := message.NewMessage(id, in.Data())
	msg.Metadata = metadata
	return msg
}

// place returns the position of the message in its stream.
func place(in jetstream.Msg) string {
	where, err := in.Metadata()
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s/%d", where.Stream, where.Sequence.Stream)
}
