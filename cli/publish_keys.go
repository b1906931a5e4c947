package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// keyMark stands for the key in a template for several keys.
const keyMark = "{key}"

func (a *app) publishKeys(ctx context.Context, st *store.Store, to *replay.Publisher, p publishing, template []byte) error {
	keys, err := a.keys(ctx, p)
	if err != nil {
		return err
	}
	for _, key := range keys { // check all keys before the first is published
		if _, err := p.ofKey(ctx, template, key); err != nil {
			return fmt.Errorf("key %q: %w; nothing was published", key, err)
		}
	}
	b := a.batches(to, int64(len(keys)))
	var ids []string
	var failed error
	for i := 0; failed == nil && i < len(keys); i++ {
		var msg *message.Message
		if msg, failed = p.ofKey(ctx, template, keys[i]); failed == nil {
			ids = append(ids, msg.UUID)
			failed = b.add(ctx, msg, int64(i+1))
		}
	}
	if failed == nil {
		failed = b.flush(ctx)
	}
	b.meter.clear()
	if failed != nil {
		upTo := ""
		if b.done > 0 {
			upTo = ": the keys up to " + keys[b.done-1]
		}
		a.say("%s published%s.", words.Several(to.Published(), "event"), upTo)
		a.sayWhatIsUnknown(b, failed, "with --id 'resend-{key}'")
		return failed
	}
	return a.published(ctx, st, to, ids, func(out io.Writer) { fmt.Fprintf(out, "%s published\n", words.Several(to.Published(), "event")) })
}

// keys returns the given keys without repetitions.
func (a *app) keys(ctx context.Context, p publishing) (keys []string, err error) {
	given := p.keys
	if p.keysFrom != "" {
		var text []byte
		if p.keysFrom == "-" {
			text, err = io.ReadAll(a.input(ctx))
		} else {
			text, err = os.ReadFile(p.keysFrom)
		}
		if err != nil {
			return nil, fmt.Errorf("read the keys: %w", err)
		}
		given = strings.Split(string(text), "\n")
	}
	known := map[string]bool{}
	for _, key := range given {
		if key = strings.TrimSpace(key); key != "" && !known[key] {
			known[key] = true
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, nothing("there are no keys; nothing was published")
	}
	return slices.Clip(keys), nil
}

// ofKey makes the message for a key.
func (p *publishing) ofKey(ctx context.Context, template []byte, key string) (*message.Message, error) {
	event := store.Event{ID: "id", Topic: p.topic, Key: key}
	if p.id != "" {
		event.ID = strings.ReplaceAll(p.id, keyMark, key)
	}
	if err := event.Validate(); err != nil {
		return nil, err
	}
	payload, err := fill(template, key)
	if err != nil {
		return nil, err
	}
	if p.id == "" {
		event.ID = ""
	}
	return p.message(ctx, event.ID, key, payload)
}

// fill puts a key in place of {key} in a JSON template: escaped within a string, and as
// a number elsewhere, where the key must be one.
func fill(template []byte, key string) ([]byte, error) {
	quotedKey, err := json.Marshal(key)
	if err != nil {
		return nil, err
	}
	inString := quotedKey[1 : len(quotedKey)-1]
	var filled []byte
	quoted := false
	for rest := template; len(rest) > 0; {
		n := 1
		switch {
		case bytes.HasPrefix(rest, []byte(keyMark)) && quoted:
			filled, rest = append(filled, inString...), rest[len(keyMark):]
			continue
		case bytes.HasPrefix(rest, []byte(keyMark)):
			if !isNumber(key) {
				return nil, errors.New(`{key} stands outside of a string, where it must be a number: want it in quotes, "{key}"`)
			}
			filled, rest = append(filled, key...), rest[len(keyMark):]
			continue
		case rest[0] == '"':
			quoted = !quoted
		case rest[0] == '\\' && quoted:
			n = min(2, len(rest))
		}
		filled, rest = append(filled, rest[:n]...), rest[n:]
	}
	if !json.Valid(filled) {
		return nil, errors.New("the payload is not JSON")
	}
	return filled, nil
}

// isNumber reports whether a text is a JSON number.
func isNumber(text string) bool {
	return text != "" && (text[0] == '-' || text[0] >= '0' && text[0] <= '9') && json.Valid([]byte(text))
}
