package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

type byValue struct{ N int }

func (byValue) EventName() string { return "by.value" }

type byPointer struct{ N int }

func (*byPointer) EventName() string { return "by.pointer" }

func TestEventNameOfEveryShape(t *testing.T) {
	value, pointer := &byValue{}, &byPointer{}
	for _, named := range []struct {
		event any
		want  string
	}{
		{byValue{}, "by.value"},
		{value, "by.value"},
		{&value, "by.value"},
		{(*byValue)(nil), "by.value"},
		{new(*byValue), "by.value"},
		{byPointer{}, "by.pointer"},
		{pointer, "by.pointer"},
		{&pointer, "by.pointer"},
		{new(*byPointer), "by.pointer"},
		{struct{}{}, ""},
		{nil, ""},
		{42, ""},
	} {
		require.Equal(t, named.want, handlers.EventName(named.event), "%T", named.event)
	}
}

func TestFuncDecodesAndCalls(t *testing.T) {
	marshaler := cqrs.JSONMarshaler{}
	msg := message.NewMessage("id", []byte(`{"N":7}`))

	var got int
	require.NoError(t, handlers.Func(handlers.New("h", func(ctx context.Context, e byValue) error {
		got = e.N
		require.Equal(t, msg, cqrs.OriginalMessageFromCtx(ctx))
		return nil
	}), marshaler)(msg))
	require.Equal(t, 7, got)

	require.NoError(t, handlers.Func(handlers.New("h", func(_ context.Context, e *byPointer) error {
		got = e.N * 2
		return nil
	}), marshaler)(msg))
	require.Equal(t, 14, got)
}

func TestErrorsAreClassedHoweverTheyAreWrapped(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		err  error
		kind store.Kind
	}{
		{cause, store.KindError},
		{handlers.Undecodable(cause), store.KindUndecodable},
		{fmt.Errorf("wrapped: %w", handlers.Undecodable(cause)), store.KindUndecodable},
		{errors.Join(errors.New("other"), handlers.Undecodable(cause)), store.KindUndecodable},
		{&handlers.PanicError{Value: cause, Stack: "stack"}, store.KindPanic},
		{fmt.Errorf("wrapped: %w", &handlers.PanicError{Value: "value"}), store.KindPanic},
	} {
		f := handlers.Failure(c.err)
		require.Equal(t, c.kind, f.Kind)
		require.Equal(t, c.err.Error(), f.Message)
	}
	require.ErrorIs(t, handlers.Undecodable(cause), cause)
	require.ErrorIs(t, &handlers.PanicError{Value: cause}, cause)
	require.NoError(t, handlers.Undecodable(nil))
}
