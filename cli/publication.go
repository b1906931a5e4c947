package cli

import (
	"context"
	"errors"
	"io"
	"strconv"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// publication is what one command publishes, as an operation on record.
type publication struct {
	st        *store.Store
	to        destination
	topic     string
	request   replay.Request
	operation int64 // 0 until something is published
	published int64
}

// publish publishes all messages or none. p.published tells which, also after an error.
// After pubsub.ErrMaybeWritten the result is unknown.
func (p *publication) publish(ctx context.Context, messages []*message.Message) error {
	if p.operation == 0 {
		o, err := replay.BeginPublishing(ctx, p.st, p.topic, p.request)
		if err != nil {
			return err
		}
		p.operation = o.ID
	}
	for _, msg := range messages {
		msg.Metadata.Set(store.OperationMetadata, strconv.FormatInt(p.operation, 10))
	}
	if err := p.to.Publish(p.topic, messages...); err != nil {
		return err
	}
	p.published += int64(len(messages))
	if p.to.direct && len(messages) == 1 {
		if err := p.whereabouts(ctx, messages[0]); err != nil {
			return err
		}
	}
	return p.record(ctx, false)
}

// whereabouts finds out whether a published message is at the broker or in the outbox.
func (p *publication) whereabouts(ctx context.Context, msg *message.Message) error {
	waits, err := p.st.Outbox(ctx, store.OutboxFilter{Topic: p.topic, EventID: msg.UUID})
	if err == nil && len(waits) == 0 {
		p.to.state = store.OutgoingSent
	}
	return err
}

// record records how many messages are published, and whether these are all.
func (p *publication) record(ctx context.Context, complete bool) error {
	if p.operation == 0 {
		return nil
	}
	return replay.NotePublished(context.WithoutCancel(ctx), p.st, p.operation, p.published, complete)
}

// publishedJSON is what was published, in JSON. With --lines there are no ids.
type publishedJSON struct {
	Published int64               `json:"published"`
	Operation int64               `json:"operation"`
	Outbox    store.OutgoingState `json:"outbox"` // "": in the database, with its runs
	IDs       []string            `json:"ids,omitempty"`
}

// published reports that everything was published.
func (a *app) published(ctx context.Context, p *publication, data publishedJSON, people func(out io.Writer)) error {
	if err := p.record(ctx, true); err != nil {
		return err
	}
	data.Published, data.Operation, data.Outbox = p.published, p.operation, p.to.state
	if err := a.print(data, people); err != nil || p.operation == 0 {
		return err
	}
	a.say("On record as operation %d.", p.operation)
	switch p.to.state {
	case store.OutgoingHeld:
		a.say("Held in the outbox until somebody releases it: reprise outbox release --topic %s", words.Quoted(p.topic))
	case store.OutgoingPending:
		return a.sayWhoSends(ctx, p.st)
	}
	return nil
}

const (
	batchEvents = 1000
	batchBytes  = 4 << 20 // of payload
)

// batches publishes many messages, one batch at a time.
type batches struct {
	*publication
	meter *meter
	batch []*message.Message
	bytes int
	place int64 // of the last message
	done  int64 // place of the last published message
}

func (a *app) batches(to *publication, total int64) *batches {
	return &batches{publication: to, meter: a.meter("publishing", total)}
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
	before := b.published
	err := b.publish(ctx, b.batch)
	if b.published > before {
		b.batch, b.bytes, b.done = nil, 0, b.place
		b.meter.set(b.published, "")
	}
	return err
}

// sayWhatIsUnknown says what may have been published, after an error that leaves it
// open.
func (a *app) sayWhatIsUnknown(b *batches, err error, safely string) {
	if b.operation != 0 {
		a.say("On record as operation %d.", b.operation)
	}
	if errors.Is(err, pubsub.ErrMaybeWritten) {
		a.say("Of the %d after them nobody knows: %s they can be published again.", len(b.batch), safely)
	}
}
