package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

func outboxCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "outbox",
		Short: "See and steer what a broker is to carry",
		Long: `Where a broker carries events, they go by the outbox when it is down, when they
are published in a transaction, or when the application says so. A running
application with the transport configured sends what is PENDING within seconds.

  PENDING  waits to be sent
  HELD     waits for somebody to release it
  SENT     the broker has it
  REFUSED  the broker will never take it as it is
  DROPPED  somebody decided that it is not sent

What was sent to the broker directly is not in the outbox.`,
		Example: `  reprise outbox status
  reprise outbox list --state REFUSED
  reprise outbox release --topic shipping.registered --reason 'checked'`,
	}, outboxListCommand(a), outboxShowCommand(a), outboxStatusCommand(a), outboxSendCommand(a), outboxReleaseCommand(a), outboxDropCommand(a))
}

// outboxSelection is the flags that select messages in the outbox. All given flags must
// match.
type outboxSelection struct {
	filter       store.OutboxFilter
	since, until when
	all          bool
}

func (s *outboxSelection) add(c *cobra.Command, all string) {
	flags := c.Flags()
	flags.StringVar(&s.filter.Topic, "topic", "", "topic")
	flags.StringVar(&s.filter.Key, "key", "", "key of the event")
	flags.StringVar(&s.filter.EventID, "event", "", "id of the event")
	flags.Var(&s.since, "since", "written at or after: "+whenUsage)
	flags.Var(&s.until, "until", "written before")
	flags.BoolVar(&s.all, "all", false, all)
}

// addState adds the flag for the state, for a command that accepts several states.
func (s *outboxSelection) addState(c *cobra.Command, usage string, states ...store.OutgoingState) {
	c.Flags().Var((*outgoingStateFlag)(&s.filter.State), "state", usage)
	complete(c, "state", states...)
}

// of returns the filter of the flags and the ids.
func (s *outboxSelection) of(ids []string) (store.OutboxFilter, error) {
	f := s.filter
	f.Since, f.Until = s.since.Time, s.until.Time
	for _, text := range ids {
		id, err := parseOutgoing(text)
		if err != nil {
			return f, err
		}
		f.IDs = append(f.IDs, id)
	}
	return f, usage(f.Validate())
}

// named is of for a command that must not apply to everything by mistake.
func (s *outboxSelection) named(ids []string) (store.OutboxFilter, error) {
	f, err := s.of(ids)
	if err != nil {
		return f, err
	}
	anyState := f
	anyState.State = ""
	switch {
	case s.all && !anyState.Empty():
		return f, usage(errors.New("--all and something else: --all is everything, of one state with --state; leave the others out"))
	case !s.all && anyState.Empty():
		return f, usage(errors.New("nothing is selected: name messages by their ids or by flags such as --topic or --since, or say --all"))
	}
	return f, nil
}

func parseOutgoing(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return 0, usage(fmt.Errorf("message %q: want the number of a message, such as 17: see reprise outbox list", text))
	}
	return id, nil
}

// outboxFlagsOf returns a selection in the syntax of the command line.
func outboxFlagsOf(f store.OutboxFilter) string {
	var typed []string
	for _, id := range f.IDs {
		typed = append(typed, strconv.FormatInt(id, 10))
	}
	for _, given := range []struct{ flag, value string }{
		{"state", string(f.State)}, {"topic", f.Topic}, {"event", f.EventID}, {"key", f.Key},
		{"since", (&when{f.Since}).String()}, {"until", (&when{f.Until}).String()},
	} {
		if given.value != "" {
			typed = append(typed, "--"+given.flag, words.Quoted(given.value))
		}
	}
	if f.State = ""; f.Empty() {
		typed = append(typed, "--all")
	}
	return strings.Join(typed, " ")
}

// outgoingStateFlag is a state of a message in the outbox, in any case.
type outgoingStateFlag store.OutgoingState

func (s *outgoingStateFlag) Set(text string) error {
	state, err := store.ParseOutgoingState(text)
	*s = outgoingStateFlag(state)
	return err
}

func (s *outgoingStateFlag) String() string { return string(*s) }
func (s *outgoingStateFlag) Type() string   { return "state" }

func outgoingCell(state store.OutgoingState) cell {
	return cell{string(state), map[store.OutgoingState]colour{
		store.OutgoingPending: yellow, store.OutgoingHeld: yellow, store.OutgoingSent: green, store.OutgoingRefused: red, store.OutgoingDropped: plain,
	}[state]}
}
