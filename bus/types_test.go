package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

type (
	plain          struct{ N int }
	of[T any]      struct{ V T }
	pair[A, B any] struct {
		A A
		B B
	}
	ids      []string
	counts   map[string]int
	integer  int
	pointers struct{ P *int }
	locking  struct {
		sync.Mutex
		N int
	}
	withChannel       struct{ C chan int }
	withHiddenChannel struct {
		N int
		C chan int `json:"-"`
	}
	byPointer         struct{ ID string }
	namedByPointer    struct{ ID string }
	shape             interface{ Area() int }
	marshalsByPointer struct{ n int }
	valueFromNewEvent struct{ made any }
)

func (*byPointer) EventName() string                      { return "by.pointer" }
func (p *byPointer) EventID() string                      { return "id-" + p.ID }
func (p *byPointer) EventKey() string                     { return "key-" + p.ID }
func (*namedByPointer) Name() string                      { return "named by pointer" }
func (m *marshalsByPointer) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &m.n) }
func (m marshalsByPointer) MarshalJSON() ([]byte, error)  { return json.Marshal(m.n) }

func (valueFromNewEvent) HandlerName() string               { return "h" }
func (v valueFromNewEvent) NewEvent() any                   { return v.made }
func (valueFromNewEvent) Handle(context.Context, any) error { return nil }

// takes is a handler of E that hands on what it gets, and the events that are
// published for it.
type takes struct {
	handler cqrs.EventHandler
	events  []any
	want    any
	got     chan any
}

func values[E any](want E, events ...any) takes {
	got := make(chan any, 16)
	return takes{handlers.New("h", func(_ context.Context, e E) error { got <- e; return nil }), events, want, got}
}

func watermills[E any](want *E, events ...any) takes {
	got := make(chan any, 16)
	return takes{cqrs.NewEventHandler("h", func(_ context.Context, e *E) error { got <- e; return nil }), events, want, got}
}

var (
	byFullName = cqrs.JSONMarshaler{}
	byName     = cqrs.JSONMarshaler{GenerateName: cqrs.StructName}
	byMethod   = cqrs.JSONMarshaler{GenerateName: cqrs.NamedStruct(cqrs.StructName)}
	protobuf   = cqrs.ProtoMarshaler{}
)

// What Handle takes is published and comes back as it was, given as a value, a
// pointer or a pointer to a pointer.
func TestWhatHandleTakesIsPublishedAndDecoded(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		one := 1
		p := &plain{7}
		text := wrapperspb.String("x")
		for name, c := range map[string]struct {
			marshaler cqrs.CommandEventMarshaler
			takes
		}{
			"a value":                    {byFullName, values(plain{7}, plain{7}, p, &p)},
			"a pointer":                  {byFullName, values(&plain{7}, plain{7}, p, &p)},
			"a pointer to a pointer":     {byFullName, values(&p, plain{7}, p)},
			"Watermill's":                {byName, watermills(&plain{7}, plain{7}, p)},
			"Watermill's of a pointer":   {byName, watermills(&p, plain{7}, p)},
			"generic":                    {byFullName, values(of[int]{7}, of[int]{7}, &of[int]{7})},
			"generic by its short name":  {byName, values(of[string]{"x"}, of[string]{"x"})},
			"generic of a type":          {byFullName, values(&of[plain]{plain{7}}, of[plain]{plain{7}})},
			"generic of a pointer":       {byFullName, values(of[*plain]{p}, of[*plain]{p})},
			"generic of generics":        {byFullName, values(pair[of[int], map[string][]int]{of[int]{1}, map[string][]int{"a": {1}}}, pair[of[int], map[string][]int]{of[int]{1}, map[string][]int{"a": {1}}})},
			"a slice":                    {byFullName, values(ids{"a"}, ids{"a"}, &ids{"a"})},
			"a map":                      {byFullName, values(counts{"a": 1}, counts{"a": 1})},
			"a map without a name":       {byFullName, values(map[string]any{"a": "b"}, map[string]any{"a": "b"})},
			"a struct without a name":    {byFullName, values(struct{ N int }{7}, struct{ N int }{7})},
			"a number":                   {byFullName, values(integer(7), integer(7))},
			"pointers within":            {byFullName, values(pointers{&one}, pointers{&one})},
			"an embedded pointer":        {byFullName, values(&of[*plain]{p}, &of[*plain]{p})},
			"a lock by pointer":          {byFullName, values(&locking{N: 7}, &locking{N: 7})},
			"a channel that is left out": {byFullName, values(withHiddenChannel{N: 7}, withHiddenChannel{N: 7, C: make(chan int)})},
			"methods of the pointer":     {handlers.JSON(), values(byPointer{"1"}, byPointer{"1"})},
			"a name of the pointer":      {byMethod, values(namedByPointer{"1"}, namedByPointer{"1"}, &namedByPointer{"1"})},
			"decoding by a method":       {byFullName, values(marshalsByPointer{7}, marshalsByPointer{7}, &marshalsByPointer{7})},
			"protobuf":                   {protobuf, values(text, text, &text)},
			"protobuf, Watermill's":      {protobuf, watermills(text, text)},
			"protobuf by the short name": {cqrs.ProtoMarshaler{GenerateName: cqrs.StructName}, values(text, text)},
		} {
			t.Run(name, func(t *testing.T) {
				b, got := openWith(t, url, bus.Config{Marshaler: c.marshaler}), make(chan any, 16)
				require.NoError(t, b.Handle(through{c.handler, got}))
				run(t, b)
				for _, e := range c.events {
					require.NoError(t, b.Publish(t.Context(), e), "%T", e)
					require.NoError(t, c.handler.Handle(t.Context(), testkit.Receive(t, got)))
					requireSame(t, c.want, testkit.Receive(t, c.got))
				}
			})
		}
	})
}

// through hands on the events as they were decoded.
type through struct {
	cqrs.EventHandler
	got chan any
}

func (h through) Handle(_ context.Context, event any) error { h.got <- event; return nil }

func requireSame(t *testing.T, want, got any) {
	t.Helper()
	if want, ok := want.(proto.Message); ok {
		require.True(t, proto.Equal(want, got.(proto.Message)))
		return
	}
	require.Equal(t, want, got)
}

// What could never be handled is refused at once, with what to write instead.
func TestHandleRefusesEventsThatCannotBeHandled(t *testing.T) {
	for name, c := range map[string]struct {
		marshaler cqrs.CommandEventMarshaler
		handler   cqrs.EventHandler
		want      string
	}{
		"any":                         {byFullName, nothing[any]("h"), "interface {} is an interface"},
		"an interface":                {byFullName, nothing[shape]("h"), "write a handler for each type"},
		"a pointer to an interface":   {byFullName, nothing[*shape]("h"), "is an interface"},
		"Watermill's of an interface": {byFullName, cqrs.NewEventHandler("h", func(context.Context, *shape) error { return nil }), "is an interface"},
		"a channel":                   {byFullName, nothing[chan int]("h"), "chan int cannot be published"},
		"a function":                  {byFullName, nothing[func()]("h"), "func() cannot be published"},
		"a channel within":            {byFullName, nothing[withChannel]("h"), `cannot write a chan int: give the field another type, or the tag`},
		"a lock by value":             {byFullName, nothing[locking]("h"), "must not be copied: write the handler for the pointer, func(ctx context.Context, event *bus_test.locking) error"},
		"a lock within":               {byFullName, nothing[of[[2]locking]]("h"), "contains a lock"},
		"protobuf by value":           {protobuf, nothingOfProtobuf(), "event *wrapperspb.StringValue) error"},
		"no protobuf":                 {protobuf, nothing[plain]("h"), "bus_test.plain is no message of protobuf"},
		"protobuf, a pointer to one":  {protobuf, nothing[**wrapperspb.StringValue]("h"), "is no message of protobuf"},
		"a part of a name":            {byName, nothing[of[plain]]("h"), `is named "plain]", which is the end of its name only`},
		"too long a name":             {long{}, nothing[plain]("h"), "has 300 bytes: want at most 255"},
		"the name of all topics":      {all{}, nothing[plain]("h"), "stands for all topics"},
		"a value to decode into":      {byFullName, valueFromNewEvent{plain{}}, "want a pointer, &bus_test.plain{}"},
		"nothing to decode into":      {byFullName, valueFromNewEvent{nil}, "its NewEvent returns nil"},
		"a nil pointer":               {byFullName, valueFromNewEvent{(*plain)(nil)}, "makes a nil *bus_test.plain"},
	} {
		t.Run(name, func(t *testing.T) {
			b := openWith(t, "sqlite::memory:", bus.Config{Marshaler: c.marshaler})
			require.ErrorContains(t, b.Handle(c.handler), c.want)
			subscribed, err := b.Store().Subscriptions(t.Context())
			require.NoError(t, err)
			require.Empty(t, subscribed)
		})
	}
}

func nothingOfProtobuf() cqrs.EventHandler {
	return handlers.New[wrapperspb.StringValue]("h", nil) // vet forbids the function
}

type long struct{ cqrs.JSONMarshaler }

func (long) Name(any) string { return fmt.Sprintf("%0300d", 0) }

type all struct{ cqrs.JSONMarshaler }

func (all) Name(any) string { return store.AllTopics }

// EventID and EventKey count also when they are methods of the pointer and the event
// is a value.
func TestIDAndKeyOfAValueByMethodsOfItsPointer(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		b := open(t, url)
		p := &byPointer{"3"}
		for _, e := range []any{byPointer{"1"}, byPointer{"1"}, &byPointer{"2"}, &byPointer{"2"}, &p, &p} {
			require.NoError(t, b.Publish(t.Context(), e))
		}
		events, _, err := b.Store().Events(t.Context(), store.EventFilter{})
		require.NoError(t, err)
		var got []string
		for _, e := range events {
			got = append(got, e.ID+" "+e.Key)
		}
		require.ElementsMatch(t, []string{"id-1 key-1", "id-2 key-2", "id-3 key-3"}, got)
		require.ErrorContains(t, b.Publish(t.Context(), (*byPointer)(nil)), "the event is a nil *bus_test.byPointer")
	})
}

// A topic that Handle takes, Publish takes, by whatever way; and one that is refused
// is refused by both.
func TestHandleAndPublishTakeTheSameTopics(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		for topic, ok := range map[string]bool{
			"user.signed_up": true, "main.Of[int]": true, "a/b[*c.D]": true, "with space": true, "Grüße": true, "a,b;c'\"": true, "map[string]interface {}": true,
			"": false, "*": false, "a\nb": false, "\xff": false,
		} {
			var name cqrs.CommandEventMarshaler = cqrs.JSONMarshaler{GenerateName: func(any) string { return topic }}
			b := openWith(t, url, bus.Config{Marshaler: name})
			handled, published := b.Handle(nothing[plain]("h")), b.Publish(t.Context(), plain{1})
			require.Equal(t, ok, handled == nil, "Handle %q: %v", topic, handled)
			require.Equal(t, ok, published == nil, "Publish %q: %v", topic, published)
			raw := message.NewMessage("raw", []byte(`{}`))
			require.Equal(t, ok, store.ValidTopic(topic) == nil)
			event := store.Event{ID: raw.UUID, Topic: topic}
			require.Equal(t, ok, event.Validate() == nil)
			require.Equal(t, ok, b.InTx(t.Context(), func(tx *bus.Tx) error { return b.PublishTx(t.Context(), tx, plain{2}) }) == nil)
		}
		b := open(t, url)
		runs, err := b.Store().Runs(t.Context(), store.Filter{})
		require.NoError(t, err)
		require.Len(t, runs, 7*2)
	})
}

// What a broker takes as no topic, neither Handle nor Publish takes.
func TestATopicThatTheBrokerDoesNotTake(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		none := errors.New("not connected")
		for _, mode := range []pubsub.Mode{pubsub.Direct, pubsub.ViaOutbox, pubsub.Hold} {
			b := openWith(t, url, bus.Config{Marshaler: byFullName, Transport: &pubsub.Transport{
				Name: "broker", Mode: mode,
				Publisher:  func() (message.Publisher, error) { return nil, none },
				Subscriber: func(string) (message.Subscriber, error) { return nil, none },
				Topic: func(topic string) error {
					if strings.Contains(topic, "[") {
						return errors.New("want no brackets")
					}
					return nil
				},
			}})
			const want = `broker takes no topic of that name: want no brackets`
			require.ErrorContains(t, b.Handle(nothing[of[int]]("h")), want)
			require.ErrorContains(t, b.Publish(t.Context(), of[int]{1}), want)
			require.ErrorContains(t, b.InTx(t.Context(), func(tx *bus.Tx) error { return b.PublishTx(t.Context(), tx, of[int]{1}) }), want)
		}
	})
}
