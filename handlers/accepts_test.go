package handlers_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
)

type panicking struct{ cqrs.JSONMarshaler }

func (panicking) Marshal(any) (*message.Message, error) { panic("no field is set") }

// A zero event is shown to the marshaler when a handler is registered. One that
// panics on it is told of by name, and ends no process.
func TestAMarshalerThatPanicsIsAnError(t *testing.T) {
	t.Parallel()
	_, err := handlers.Accepts(panicking{}, &struct{ N int }{})
	require.ErrorContains(t, err, "handlers_test.panicking panics on one that is zero (no field is set): let it return an error")
}
