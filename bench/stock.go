package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

// What systems on a stock router have in common.

func stockLogger() watermill.LoggerAdapter {
	return watermill.NewSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
}

func stockMessages(events []event) ([]*message.Message, error) {
	ms := make([]*message.Message, len(events))
	for i, e := range events {
		body, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		ms[i] = message.NewMessage(watermill.NewUUID(), body)
	}
	return ms, nil
}

func stockHandler(handle func(context.Context, event) error) message.NoPublishHandlerFunc {
	return func(m *message.Message) error {
		var e event
		if err := json.Unmarshal(m.Payload, &e); err != nil {
			return err
		}
		return handle(m.Context(), e)
	}
}

// startRouter returns when the router has subscribed its handlers.
func startRouter(ctx context.Context, router *message.Router) error {
	ended := make(chan error, 1)
	go func() { ended <- router.Run(ctx) }()
	select {
	case <-router.Running():
		return nil
	case err := <-ended:
		return errors.Join(errors.New("the router has ended"), err)
	}
}

func closeRouter(ctx context.Context, router *message.Router) error {
	closed := make(chan error, 1)
	go func() { closed <- router.Close() }()
	select {
	case err := <-closed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
