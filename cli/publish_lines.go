package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func (a *app) publishLines(ctx context.Context, st *store.Store, to *replay.Publisher, p publishing) error {
	in := bufio.NewScanner(a.input(ctx))
	in.Buffer(make([]byte, 0, 64<<10), p.max.bytes()+2) // including the end of the line
	b := a.batches(to, 0)
	var number int64
	var failed error
	for failed == nil && in.Scan() {
		number++
		text := bytes.TrimSpace(in.Bytes())
		if len(text) == 0 {
			continue
		}
		msg, err := p.line(ctx, bytes.Clone(text))
		if err != nil {
			failed = errors.Join(b.flush(ctx), fmt.Errorf("line %d: %w", number, err))
			break
		}
		failed = b.add(ctx, msg, number)
	}
	switch {
	case failed != nil:
	case errors.Is(in.Err(), bufio.ErrTooLong):
		failed = errors.Join(b.flush(ctx), fmt.Errorf("line %d has more than %d MiB: keep large data elsewhere and publish where it is, or say --max-payload", number+1, p.max))
	case in.Err() != nil:
		failed = errors.Join(b.flush(ctx), fmt.Errorf("read line %d: %w", number+1, in.Err()))
	default:
		failed = b.flush(ctx)
	}
	b.meter.clear()
	if failed != nil {
		a.say("%s published: the lines up to %d.", words.Several(to.Published(), "event"), b.done)
		a.sayWhatIsUnknown(b, failed, "with --id-from")
		return failed
	}
	return a.published(ctx, st, to, nil, func(out io.Writer) { fmt.Fprintf(out, "%s published\n", words.Several(to.Published(), "event")) })
}

// line makes the message for a line.
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
	msg, err := p.message(ctx, id, key, text)
	if err != nil {
		return nil, err
	}
	event := store.Event{ID: msg.UUID, Topic: p.topic, Key: key}
	return msg, event.Validate()
}

// valueAt returns the string or number at a path of a JSON payload; "" if path is
// empty.
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
