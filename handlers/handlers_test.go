package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

type byValue struct{ N int }

func (byValue) EventName() string { return "by.value" }

type byPointer struct{ N int }

func (*byPointer) EventName() string { return "by.pointer" }

func TestEventNameOfEveryShape(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
		f := handlers.Failure("mail", c.err)
		require.Equal(t, c.kind, f.Kind)
		require.Equal(t, c.err.Error(), f.Message)
		require.Equal(t, store.Fingerprint("mail", c.kind, f.Message), f.Fingerprint)
	}
}

func TestAPayloadThatDoesNotDecodeNeverReachesTheHandler(t *testing.T) {
	t.Parallel()
	called := false
	handle := handlers.Func(handlers.New("h", func(context.Context, byValue) error {
		called = true
		return nil
	}), cqrs.JSONMarshaler{})
	err := handle(message.NewMessage("42", []byte(`{"N":"seven"}`)))
	require.ErrorContains(t, err, "event 42 does not decode into *handlers_test.byValue: ")
	require.Equal(t, store.KindUndecodable, handlers.Failure("h", err).Kind)
	require.False(t, called)
}

func TestMarkingNoErrorMarksNothing(t *testing.T) {
	t.Parallel()
	require.NoError(t, handlers.Undecodable(nil))
	require.NoError(t, handlers.Permanent(nil))
	require.NoError(t, handlers.SkipCycle(nil))
	require.Error(t, handlers.Snooze(0), "a snooze is no success, however short")
}

func TestAMarkHidesNothingOfItsCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	for _, marked := range []error{handlers.Undecodable(cause), handlers.Permanent(cause), handlers.SkipCycle(cause)} {
		require.ErrorIs(t, marked, cause)
		require.EqualError(t, marked, "cause")
	}
	require.ErrorIs(t, &handlers.TimeoutError{Timeout: 1, Err: cause}, cause)
	require.ErrorIs(t, &handlers.PanicError{Value: cause}, cause)
	require.NoError(t, errors.Unwrap(&handlers.PanicError{Value: "no error"}))
}

func TestOnlyATransactionalHandlerFindsATransaction(t *testing.T) {
	t.Parallel()
	_, ok := handlers.Tx(t.Context())
	require.False(t, ok)
	tx := new(sqlx.Tx)
	found, ok := handlers.Tx(handlers.WithTx(t.Context(), tx))
	require.True(t, ok)
	require.Same(t, tx, found)
}
