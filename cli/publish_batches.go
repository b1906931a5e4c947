package cli

import (
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/replay"
)

const (
	batchEvents = 1000
	batchBytes  = 4 << 20 // of payload
)

// batches publishes many messages, one batch at a time.
type batches struct {
	*replay.Publisher
	meter *meter
	batch []*message.Message
	bytes int
	place int64 // of the last message
	done  int64 // place of the last published message
}

func (a *app) batches(to *replay.Publisher, total int64) *batches {
	return &batches{Publisher: to, meter: a.meter("publishing", total)}
}

func (b *batches) add(ctx context.Context, msg *message.Message, place int64) error {
	b.batch, b.bytes, b.place = append(b.batch, msg), b.bytes+len(msg.Payload), place
	if len(b.batch) < batchEvents && b.bytes < batchBytes {
		return nil
	}
	return b.flush(ctx)
}

func (b *batches) flush(ctx context.Context) error {
	if len(b.batch) == 0 {
		return nil
	}
	before := b.Published()
	err := b.Publish(ctx, b.batch...)
	if b.Published() > before {
		b.batch, b.bytes, b.done = nil, 0, b.place
		b.meter.set(b.Published(), "")
	}
	return err
}

// sayWhatIsUnknown says what may have been published, after an error that leaves it
// open.
func (a *app) sayWhatIsUnknown(b *batches, err error, safely string) {
	if b.Operation() != 0 {
		a.say("On record as operation %d.", b.Operation())
	}
	if errors.Is(err, pubsub.ErrMaybeWritten) {
		a.say("Of the %d after them nobody knows: %s they can be published again.", len(b.batch), safely)
	}
}
