package bus_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

type (
	wrapped[T any] struct{ V T }
	named          struct{ ID string } // by methods of a pointer to it
	embedded       struct{ *named }
	inner          struct{ A int }
	text           string
	numbers        []int
	table          map[string]int
	hasFunc        struct{ F func() }
	hasChan        struct{ C chan int }
	picky          struct{ State string }
)

func (*named) EventName() string  { return "named" }
func (n *named) EventID() string  { return "event-" + n.ID }
func (n *named) EventKey() string { return "key-" + n.ID }

// MarshalJSON is of a type that has no empty value.
func (p picky) MarshalJSON() ([]byte, error) {
	if p.State == "" {
		return nil, fmt.Errorf("no state")
	}
	return []byte(`{"State":"` + p.State + `"}`), nil
}

// served registers a handler of E, publishes an event, and returns what the handler
// got, or why there can be no such handler.
func served[E any](marshaler cqrs.CommandEventMarshaler, event any, check func(t *testing.T, got E)) func(t *testing.T, url string) error {
	return func(t *testing.T, url string) error {
		got := make(chan E, 10)
		b, err := bus.Open(t.Context(), url, bus.Config{Marshaler: marshaler, Logger: quiet()})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		if err := b.Handle(handlers.New("handler", func(_ context.Context, e E) error {
			got <- e
			return nil
		}, handlers.Policy{Attempts: 1, Cycles: 1})); err != nil {
			return err
		}
		run(t, b)
		require.NoError(t, b.Publish(t.Context(), event))
		select {
		case e := <-got:
			check(t, e)
		case <-time.After(patience):
			runs, err := b.Store().Runs(t.Context(), store.Filter{})
			t.Fatalf("not handled: %+v, %v", runs, err)
		}
		return nil
	}
}

func equal[E any](want E) func(t *testing.T, got E) {
	return func(t *testing.T, got E) { require.Equal(t, want, got) }
}

// What Handle takes is published and decoded; what can be neither it refuses, and
// says what to write instead.
func TestHandleServesWhatItTakes(t *testing.T) {
	t.Parallel()
	qualified := cqrs.JSONMarshaler{GenerateName: cqrs.FullyQualifiedStructName}
	short := cqrs.JSONMarshaler{GenerateName: cqrs.StructName}
	proto := cqrs.ProtoMarshaler{}
	message := wrapperspb.String("x")
	isMessage := func(t *testing.T, got *wrapperspb.StringValue) { require.Equal(t, "x", got.GetValue()) }
	for name, c := range map[string]struct {
		serve   func(t *testing.T, url string) error
		refused string
	}{
		"a struct":                       {serve: served(qualified, inner{1}, equal(inner{1}))},
		"a pointer":                      {serve: served(qualified, inner{1}, equal(&inner{1}))},
		"a pointer, published as one":    {serve: served(qualified, &inner{1}, equal(&inner{1}))},
		"a value, published as pointer":  {serve: served(qualified, &inner{1}, equal(inner{1}))},
		"a generic type":                 {serve: served(qualified, wrapped[inner]{inner{1}}, equal(wrapped[inner]{inner{1}}))},
		"a generic type of a pointer":    {serve: served(qualified, wrapped[*inner]{&inner{1}}, equal(wrapped[*inner]{&inner{1}}))},
		"a generic type of a map":        {serve: served(qualified, wrapped[map[string]any]{}, equal(wrapped[map[string]any]{}))},
		"a generic type, short name":     {serve: served(short, wrapped[inner]{inner{1}}, equal(wrapped[inner]{inner{1}}))},
		"a string":                       {serve: served(qualified, text("x"), equal(text("x")))},
		"a slice":                        {serve: served(qualified, numbers{1, 2}, equal(numbers{1, 2}))},
		"a map":                          {serve: served(qualified, table{"a": 1}, equal(table{"a": 1}))},
		"no empty value":                 {serve: served(qualified, picky{"on"}, equal(picky{"on"}))},
		"methods of a pointer":           {serve: served[named](nil, named{"1"}, equal(named{"1"}))},
		"methods of an embedded pointer": {serve: served[named](nil, embedded{&named{"1"}}, equal(named{"1"}))},
		"a protobuf message":             {serve: served(proto, message, isMessage)},
		"an interface":                   {serve: served[fmt.Stringer](qualified, inner{}, nil), refused: "fmt.Stringer, an interface"},
		"a pointer to an interface":      {serve: served[*any](qualified, inner{}, nil), refused: "an interface"},
		"a pointer to a pointer":         {serve: served[**inner](qualified, inner{}, nil), refused: "write *bus_test.inner"},
		"a function":                     {serve: served[func()](qualified, inner{}, nil), refused: "cannot be JSON"},
		"a struct with a function":       {serve: served[hasFunc](qualified, inner{}, nil), refused: "cannot be JSON"},
		"a struct with a channel":        {serve: served[*hasChan](qualified, inner{}, nil), refused: "cannot be JSON"},
		"no protobuf message":            {serve: served[inner](proto, inner{}, nil), refused: "no protobuf messages"},
		"no name":                        {serve: served[inner](nil, inner{}, nil), refused: "has no name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testdb.Each(t, func(t *testing.T, url string) {
				err := c.serve(t, url)
				if c.refused == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, c.refused)
				}
			})
		})
	}
}

// theirs is an EventHandler that somebody else has made.
type theirs struct{ event any }

func (theirs) HandlerName() string               { return "theirs" }
func (f theirs) NewEvent() any                   { return f.event }
func (theirs) Handle(context.Context, any) error { return nil }

func TestHandleRefusesAHandlerThatNothingCanBeDecodedFor(t *testing.T) {
	t.Parallel()
	b, err := bus.Open(t.Context(), testdb.SQLite(t), bus.Config{Logger: quiet()})
	require.NoError(t, err)
	defer b.Close()
	for _, event := range []any{nil, inner{}, (*inner)(nil), "text"} {
		require.ErrorContains(t, b.Handle(theirs{event}), "let it return a pointer to a new event", "%T", event)
	}
}

// An event has the id and the key that it declares, in whatever way it is given.
func TestMethodsOfAPointerAreHeeded(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, url string) {
		b, err := bus.Open(t.Context(), url, bus.Config{Logger: quiet()})
		require.NoError(t, err)
		defer b.Close()
		pointer := &named{"1"}
		for _, event := range []any{named{"1"}, pointer, &pointer, embedded{pointer}} {
			require.NoError(t, b.Publish(t.Context(), event))
		}
		events, _, err := b.Store().Events(t.Context(), store.EventFilter{})
		require.NoError(t, err)
		require.Len(t, events, 1)
		require.Equal(t, "event-1", events[0].ID)
		require.Equal(t, "key-1", events[0].Key)
	})
}
