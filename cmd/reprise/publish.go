package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// publishing is the flags of publish.
type publishing struct {
	topic           string
	key, id         string
	metadata        metadataFlag
	lines           bool
	keyFrom, idFrom string
}

func publishCommand(a *app) *cobra.Command {
	var p publishing
	c := &cobra.Command{
		Use:   "publish TOPIC [PAYLOAD]",
		Short: "Publish an event, or one for each line",
		Long: `Publish an event: each handler of the topic gets a run. The payload is the
argument or, without one or with -, what is read. It is kept byte for byte.

With --lines each line that is read is the payload of an event, and JSON. They
are published in batches; an error says which lines are published. With
--id-from it is safe to do it again: no event is written twice.`,
		Example: `  reprise publish user.signed_up '{"id":"1","email":"ada@example.com"}' --key 1
  reprise publish shipping.registered --lines --id-from id --key-from order.id < shipments.jsonl`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			p.topic = args[0]
			if err := p.check(args[1:]); err != nil {
				return usage(err)
			}
			return a.withStore(c.Context(), func(st *store.Store) error { return a.publish(c.Context(), st, p, args[1:]) })
		},
	}
	flags := c.Flags()
	flags.StringVar(&p.key, "key", "", "what the event is about")
	flags.StringVar(&p.id, "id", "", "id of the event, unique on its topic; default: a new one")
	flags.Var(&p.metadata, "metadata", "metadata of the event; may be given again")
	flags.BoolVar(&p.lines, "lines", false, "an event for each line that is read")
	flags.StringVar(&p.keyFrom, "key-from", "", "with --lines: where in the payload the key is, such as order.id")
	flags.StringVar(&p.idFrom, "id-from", "", "with --lines: where in the payload the id is")
	return c
}

func (p *publishing) check(payload []string) error {
	switch {
	case p.lines && len(payload) > 0:
		return errors.New("a payload and --lines: with --lines each line that is read is a payload")
	case p.lines && (p.key != "" || p.id != ""):
		return errors.New("--key or --id with --lines: want --key-from or --id-from, which say where in each payload it is")
	case !p.lines && (p.keyFrom != "" || p.idFrom != ""):
		return errors.New("--key-from and --id-from want --lines")
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

func (a *app) publish(ctx context.Context, st *store.Store, p publishing, payload []string) (err error) {
	ps, err := pubsub.New(st, pubsub.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ps.Close()) }()
	if err := a.warnOfNoHandler(ctx, st, p.topic); err != nil {
		return err
	}
	if p.lines {
		return a.publishLines(ctx, ps.Publisher(), p)
	}
	text := []byte(strings.Join(payload, ""))
	if len(payload) == 0 || payload[0] == "-" {
		if text, err = io.ReadAll(a.input(ctx)); err != nil {
			return fmt.Errorf("read the payload: %w", err)
		}
	}
	msg := p.message(ctx, p.id, p.key, text)
	if err := ps.Publisher().Publish(p.topic, msg); err != nil {
		return err
	}
	return a.print(publishedJSON{Published: 1, IDs: []string{msg.UUID}}, func(out io.Writer) { fmt.Fprintln(out, msg.UUID) })
}

func (a *app) warnOfNoHandler(ctx context.Context, st *store.Store, topic string) error {
	subscribed, err := st.Subscriptions(ctx, deadAfter)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(subscribed, func(s store.Subscribed) bool { return s.Topic == topic }) {
		a.say("No handler is subscribed to topic %s: nothing runs. A backfill can make up for it.", topic)
	}
	return nil
}

// publishedJSON is what was published, for programs. With --lines there are no
// ids.
type publishedJSON struct {
	Published int64    `json:"published"`
	IDs       []string `json:"ids,omitempty"`
}

func (p *publishing) message(ctx context.Context, id, key string, payload []byte) *message.Message {
	if id == "" {
		id = uuid.Must(uuid.NewV7()).String()
	}
	msg := message.NewMessage(id, payload)
	maps.Copy(msg.Metadata, p.metadata)
	if key != "" {
		msg.Metadata.Set(store.KeyMetadata, key)
	}
	msg.SetContext(ctx)
	return msg
}

const (
	batchLines = 1000
	maxLine    = 16 << 20 // bytes
)

func (a *app) publishLines(ctx context.Context, to message.Publisher, p publishing) error {
	in := bufio.NewScanner(a.input(ctx))
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	m := a.meter("publishing", 0)
	var published, number, done int64 // done is the last line that is published
	var batch []*message.Message
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := to.Publish(p.topic, batch...); err != nil {
			return err
		}
		published += int64(len(batch))
		batch, done = nil, number
		m.set(published, "")
		return nil
	}
	var failed error
	for failed == nil && in.Scan() {
		number++
		text := bytes.TrimSpace(in.Bytes())
		if len(text) == 0 {
			continue
		}
		msg, err := p.line(ctx, bytes.Clone(text))
		if err != nil {
			number--
			failed = errors.Join(flush(), fmt.Errorf("line %d: %w", number+1, err))
			break
		}
		if batch = append(batch, msg); len(batch) == batchLines {
			failed = flush()
		}
	}
	if failed == nil && in.Err() != nil {
		failed = errors.Join(flush(), fmt.Errorf("read line %d: %w", number+1, in.Err()))
	}
	if failed == nil {
		failed = flush()
	}
	m.clear()
	if failed != nil {
		a.say("%s published: the lines up to %d.", several(published, "event"), done)
		if errors.Is(failed, pubsub.ErrMaybeWritten) {
			a.say("Of the %d after them nobody knows: with --id-from they can be published again.", len(batch))
		}
		return failed
	}
	return a.print(publishedJSON{Published: published}, func(out io.Writer) { fmt.Fprintf(out, "%s published\n", several(published, "event")) })
}

// line makes a message of a line.
func (p *publishing) line(ctx context.Context, text []byte) (*message.Message, error) {
	if !json.Valid(text) {
		return nil, errors.New("it is not JSON")
	}
	key, err := valueAt(text, p.keyFrom)
	if err != nil {
		return nil, fmt.Errorf("--key-from: %w", err)
	}
	id, err := valueAt(text, p.idFrom)
	if err != nil {
		return nil, fmt.Errorf("--id-from: %w", err)
	}
	msg := p.message(ctx, id, key, text)
	event := store.Event{ID: msg.UUID, Topic: p.topic, Key: key}
	return msg, event.Validate()
}

// valueAt returns the string or number at a path of a JSON payload, "" for no
// path.
func valueAt(payload []byte, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	c, err := store.ParseCondition(path + "=")
	if err != nil {
		return "", err
	}
	at := json.RawMessage(payload)
	for _, name := range c.Path {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(at, &object); err != nil || object[name] == nil {
			return "", fmt.Errorf("there is nothing at %s", path)
		}
		at = object[name]
	}
	var text string
	if err := json.Unmarshal(at, &text); err == nil && text != "" {
		return text, nil
	}
	var number json.Number
	if err := json.Unmarshal(at, &number); err == nil && number != "" {
		return number.String(), nil
	}
	return "", fmt.Errorf("at %s there is neither a string nor a number", path)
}
