package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/pubsub/transport"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// publishing is the flags of publish.
type publishing struct {
	request
	topic           string
	key, id         string
	metadata        metadataFlag
	lines           bool
	keyFrom, idFrom string
	keys            []string
	keysFrom        string
	transport       string
	max             maxPayload
	written         func(topic string, payload []byte) ([]byte, error) // the payload for what a person has written: see decode.Decoder.Written
}

func publishCommand(a *app) *cobra.Command {
	var p publishing
	c := &cobra.Command{
		Use:   "publish TOPIC [PAYLOAD]",
		Short: "Publish an event, or one for each line or key",
		Long: `Publish an event: each handler of the topic gets a run. The payload is the
argument or, without one or with -, what is read. It is kept byte for byte.

With --lines each line that is read is the payload of an event, and JSON. They
are published in batches; an error says which lines are published. With
--id-from it is safe to do it again: no event is written twice.

With --keys or --keys-from there is an event for each key. The payload is JSON,
and {key} in it stands for the key: inside a string it is escaped as JSON wants,
so that "{key}" is any key; outside of one the key must be a number. A key that
is given twice counts once. All are checked before the first is published. With
--id 'resend-{key}' it is safe to do it again.

Where the application says that a broker carries the topic, the events wait in
the outbox, and a running application with the transport configured sends them
within seconds; where it holds them, when somebody releases them: see reprise
outbox. With --transport a single event is sent by this command, or goes by the
outbox where that fails. An application that names topics says on which of them
operators may publish: see reprise topics list.

It is an operation on record, whose number is in the metadata of each event, as
operation_id: see reprise replays list.`,
		Example: `  reprise publish user.signed_up '{"id":"1","email":"ada@example.com"}' --key 1
  reprise publish shipping.registered '{"order":{"id":"{key}"}}' --keys 17,18,19 --id 'resend-{key}' --reason 'the warehouse lost them'
  reprise publish shipping.registered '{"order_id":{key}}' --keys-from orders.txt
  reprise publish shipping.registered --lines --id-from id --key-from order.id < shipments.jsonl`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			p.topic = args[0]
			if err := p.check(args[1:]); err != nil {
				return usage(err)
			}
			return a.toWrite(c.Context(), false, func(st *store.Store) error { return a.publish(c.Context(), st, p, args[1:]) })
		},
	}
	flags := c.Flags()
	flags.StringVar(&p.key, "key", "", "what the event is about")
	flags.StringVar(&p.id, "id", "", "id of the event, unique on its topic; default: a new one; with keys, {key} stands in it for the key")
	flags.Var(&p.metadata, "metadata", "metadata of the event; may be given again")
	flags.BoolVar(&p.lines, "lines", false, "an event for each line that is read")
	flags.StringVar(&p.keyFrom, "key-from", "", "with --lines: where in the payload the key is, such as order.id")
	flags.StringVar(&p.idFrom, "id-from", "", "with --lines: where in the payload the id is")
	flags.StringSliceVar(&p.keys, "keys", nil, "an event for each of these keys, such as 17,18,19")
	flags.StringVar(&p.keysFrom, "keys-from", "", "an event for each key in this file, a line each; - to read them")
	flags.StringVar(&p.transport, "transport", "", "kafka://HOST:PORT or nats://HOST:PORT, for a single event on a topic that it carries; better in REPRISE_TRANSPORT, where others do not see a password")
	p.max.add(c)
	p.addWho(c)
	return c
}

// keyed reports whether the command publishes an event for each of several keys.
func (p *publishing) keyed() bool { return p.keys != nil || p.keysFrom != "" }

func (p *publishing) check(payload []string) error {
	if err := p.max.check(); err != nil {
		return err
	}
	_, named := p.metadata[store.OperationMetadata]
	switch {
	case p.lines && len(payload) > 0:
		return errors.New("a payload and --lines: with --lines each line that is read is a payload")
	case p.lines && (p.key != "" || p.id != ""):
		return errors.New("--key or --id with --lines: want --key-from or --id-from, which say where in each payload it is")
	case !p.lines && (p.keyFrom != "" || p.idFrom != ""):
		return errors.New("--key-from and --id-from want --lines")
	case p.keys != nil && p.keysFrom != "":
		return errors.New("--keys and --keys-from: want one of them")
	case p.keyed() && (p.lines || p.key != ""):
		return errors.New("--lines or --key with --keys or --keys-from: there is an event for each of the keys, leave it out")
	case p.keyed() && p.id != "" && !strings.Contains(p.id, keyMark):
		return fmt.Errorf("--id %s with several keys: want {key} in it, such as 'resend-{key}', so that each event has an id of its own", words.Quoted(p.id))
	case p.keysFrom == "-" && fromInput(payload):
		return errors.New("--keys-from - reads the keys: give the payload as an argument")
	case named:
		return fmt.Errorf("--metadata %s: it says which operation has published the event, leave it out", store.OperationMetadata)
	}
	for _, path := range []string{p.keyFrom, p.idFrom} {
		if path != "" {
			if _, err := store.ParseCondition(path + "="); err != nil {
				return err
			}
		}
	}
	event := store.Event{ID: "id", Topic: p.topic, Key: p.key, Metadata: p.metadata}
	if p.id != "" {
		event.ID = p.id
	}
	return event.Validate()
}

// fromInput reports whether the payload comes from standard input.
func fromInput(payload []string) bool { return len(payload) == 0 || payload[0] == "-" }

func (a *app) publish(ctx context.Context, st *store.Store, p publishing, payload []string) (err error) {
	log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	carrier, err := transport.Open(cmp.Or(p.transport, a.getenv(transport.Variable)), log)
	if err != nil {
		return usage(err)
	}
	to, err := replay.NewPublisher(ctx, st, p.topic, replay.PublisherConfig{MaxPayload: p.max.bytes(), Transport: carrier}, p.request.request(nil))
	switch {
	case errors.Is(err, replay.ErrNotManual), errors.Is(err, replay.ErrWrongTransport):
		return usage(err)
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if to.Outbox() == "" {
		if err := a.warnOfNoHandler(ctx, st, p.topic); err != nil {
			return err
		}
	}
	p.written = a.decoder.Written
	if p.lines {
		return a.publishLines(ctx, st, to, p)
	}
	text := []byte(strings.Join(payload, ""))
	if fromInput(payload) {
		if text, err = p.max.read(ctx, a, "-"); err != nil {
			return fmt.Errorf("read the payload: %w", err)
		}
	}
	if p.keyed() {
		return a.publishKeys(ctx, st, to, p, text)
	}
	msg, err := p.message(ctx, p.id, p.key, text)
	if err != nil {
		return fmt.Errorf("%w; nothing was published", err)
	}
	if err := to.Publish(ctx, msg); err != nil {
		return err
	}
	return a.published(ctx, st, to, []string{msg.UUID}, func(out io.Writer) { fmt.Fprintln(out, msg.UUID) })
}

func (a *app) warnOfNoHandler(ctx context.Context, st *store.Store, topic string) error {
	subscribed, err := st.Subscriptions(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(subscribed, func(s store.Subscribed) bool { return s.Topic == topic }) {
		a.say("No handler is subscribed to topic %s: nothing runs. A backfill can make up for it.", topic)
	}
	return nil
}

// message returns the message of an event. A given id is the event's identity:
// publishing it again is safe, whatever the other flags.
func (p *publishing) message(ctx context.Context, id, key string, payload []byte) (*message.Message, error) {
	payload, err := p.written(p.topic, payload)
	if err != nil {
		return nil, err
	}
	given := id != ""
	if !given {
		id = uuid.Must(uuid.NewV7()).String()
	}
	msg := message.NewMessage(id, payload)
	maps.Copy(msg.Metadata, p.metadata)
	if key != "" {
		msg.Metadata.Set(store.KeyMetadata, key)
	}
	msg.SetContext(ctx)
	if given {
		handlers.Declare(msg)
	}
	return msg, nil
}

// published reports that everything was published.
func (a *app) published(ctx context.Context, st *store.Store, to *replay.Publisher, ids []string, people func(out io.Writer)) error {
	if err := to.Complete(ctx); err != nil {
		return err
	}
	data := wire.Published{Published: to.Published(), Operation: to.Operation(), Outbox: to.Outbox(), IDs: ids}
	if err := a.print(data, people); err != nil || to.Operation() == 0 {
		return err
	}
	a.say("On record as operation %d.", to.Operation())
	switch to.Outbox() {
	case store.OutgoingHeld:
		a.say("Held in the outbox until somebody releases it: reprise outbox release --topic %s", words.Quoted(to.Topic()))
	case store.OutgoingPending:
		return a.sayWhoSends(ctx, st)
	}
	return nil
}
