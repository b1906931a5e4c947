package main

import (
	"context"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/replay"
)

func pause(ctx context.Context, b *bus.Bus, operation int64, request replay.Request) error {
	_, err := replay.Pause(ctx, b.Store(), operation, request)
	return err
}
