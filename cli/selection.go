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

// selection is the flags that select runs, the same for every command. All given flags
// must match.
type selection struct {
	filter       store.Filter
	since, until when
	all          bool
}

// add adds the flags to a command whose arguments are ids of runs.
func (s *selection) add(c *cobra.Command) {
	flags := c.Flags()
	flags.Var((*statusFlag)(&s.filter.Status), "status", "PENDING, SUCCESS, FAILED or DISCARDED")
	flags.StringVar(&s.filter.Handler, "handler", "", "name of the handler")
	flags.StringVar(&s.filter.Topic, "topic", "", "topic of the event")
	flags.StringVar(&s.filter.EventID, "event", "", "id of the event")
	flags.StringVar(&s.filter.Key, "key", "", "key of the event")
	flags.StringVar((*string)(&s.filter.Kind), "kind", "", "kind of the last failure: error, permanent, timeout, panic, …")
	flags.StringVar(&s.filter.Text, "text", "", "what the message of the last failure contains, in whatever case")
	flags.StringVar(&s.filter.Group, "group", "", "failure group: see reprise runs groups")
	flags.Int64Var(&s.filter.Replay, "replay", 0, "the replay, or other operation, that took the run up last")
	flags.Var(&s.since, "since", "event published at or after: "+whenUsage)
	flags.Var(&s.until, "until", "event published before")
	flags.Var((*conditionsFlag)(&s.filter.Payload), "payload", "what the event's JSON payload says, such as user.id=42 or state!=paid; may be given again")
	flags.BoolVar(&s.all, "all", false, "everything that failed")
	complete(c, "status", store.Statuses()...)
}

// of returns the filter of the flags and the ids.
func (s *selection) of(ids []string) (store.Filter, error) {
	f := s.filter
	f.Since, f.Until = s.since.Time, s.until.Time
	for _, text := range ids {
		id, err := parseRun(text)
		if err != nil {
			return f, err
		}
		f.IDs = append(f.IDs, id)
	}
	switch {
	case s.all && !f.Empty():
		return f, usage(errors.New("--all and something else: --all is everything that failed, leave one of them out"))
	case s.all:
		f.Status = store.Failed
	}
	return f, usage(f.Validate())
}

// named is of for a command that must not apply to everything by mistake.
func (s *selection) named(ids []string) (store.Filter, error) {
	f, err := s.of(ids)
	if err == nil && f.Empty() {
		err = usage(errors.New("nothing is selected: name runs by their ids or by flags such as --handler or --since, or say --all for everything that failed"))
	}
	return f, err
}

func parseRun(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return 0, usage(fmt.Errorf("run %q: want the number of a run, such as 17", text))
	}
	return id, nil
}

// flagsOf returns a selection in the syntax of the command line.
func flagsOf(f store.Filter) string {
	var typed []string
	add := func(flag, value string) {
		if value != "" {
			typed = append(typed, "--"+flag, words.Quoted(value))
		}
	}
	for _, id := range f.IDs {
		typed = append(typed, strconv.FormatInt(id, 10))
	}
	add("status", string(f.Status))
	add("handler", f.Handler)
	add("topic", f.Topic)
	add("event", f.EventID)
	add("key", f.Key)
	add("kind", string(f.Kind))
	add("text", f.Text)
	add("group", f.Group)
	if f.Replay != 0 {
		add("replay", strconv.FormatInt(f.Replay, 10))
	}
	add("since", (&when{f.Since}).String())
	add("until", (&when{f.Until}).String())
	for _, c := range f.Payload {
		add("payload", c.String())
	}
	return strings.Join(typed, " ")
}

// statusFlag is a status, in any case.
type statusFlag store.Status

func (s *statusFlag) Set(text string) error {
	status, err := store.ParseStatus(strings.ToUpper(text))
	*s = statusFlag(status)
	return err
}

func (s *statusFlag) String() string { return string(*s) }
func (s *statusFlag) Type() string   { return "status" }

// conditionsFlag is conditions on a payload, one for each use of the flag.
type conditionsFlag []store.Condition

func (c *conditionsFlag) Set(text string) error {
	condition, err := store.ParseCondition(text)
	*c = append(*c, condition)
	return err
}

func (c *conditionsFlag) String() string { return "" }
func (c *conditionsFlag) Type() string   { return "PATH=VALUE" }
