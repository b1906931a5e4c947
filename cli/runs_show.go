package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/internal/words"
	"github.com/reprise-bus/reprise/store"
)

func runsShowCommand(a *app) *cobra.Command {
	var with showing
	c := &cobra.Command{
		Use:   "show RUN...",
		Short: "Show runs: event, attempts, errors, operations",
		Example: `  reprise runs show 17
  reprise runs show 17 --payload --stack`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids := make([]int64, len(args))
			for i, text := range args {
				var err error
				if ids[i], err = parseRun(text); err != nil {
					return err
				}
			}
			return a.withStore(c.Context(), func(st *store.Store) error { return a.runsShow(c.Context(), st, ids, with) })
		},
	}
	with.addPayload(c)
	c.Flags().BoolVar(&with.stack, "stack", false, "the stacks of panics")
	return c
}

// shown is everything on record about a run.
type shown struct {
	run        store.Run
	event      *store.EventHead // nil: no longer in the database
	payload    payload
	attempts   []store.Attempt // the last attempts
	earlier    int64           // number of attempts before these
	operations []store.Operation
}

func look(ctx context.Context, st *store.Store, id int64, with showing) (s shown, err error) {
	if s.run, err = st.Run(ctx, id); err != nil {
		return s, err
	}
	event, err := st.EventHead(ctx, s.run.Topic, s.run.EventID)
	if err == nil {
		s.event = &event
		s.payload, err = with.read(event.Bytes, func(most int) ([]byte, error) {
			return st.EventPayload(ctx, event.Topic, event.ID, most)
		})
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return s, err
	}
	most := shownAttempts
	if with.full {
		most = math.MaxInt32
	}
	if s.attempts, s.earlier, err = st.LastAttempts(ctx, id, most, with.stack); err != nil {
		return s, err
	}
	s.operations, err = st.OperationsOf(ctx, id)
	return s, err
}

func (a *app) runsShow(ctx context.Context, st *store.Store, ids []int64, with showing) error {
	now, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	all := make([]shown, len(ids))
	data := struct {
		Runs []wire.RunDetails `json:"runs"`
	}{}
	for i, id := range ids {
		if all[i], err = look(ctx, st, id, with); err != nil {
			return err
		}
		data.Runs = append(data.Runs, a.runDetails(all[i], now))
	}
	return a.print(data, func(out io.Writer) {
		for i, s := range all {
			if i > 0 {
				fmt.Fprintln(out)
			}
			a.printShown(out, s, now)
		}
	})
}

func (a *app) runDetails(s shown, now time.Time) wire.RunDetails {
	details := wire.NewRunDetails(s.run, s.attempts, s.earlier, s.operations, now)
	if s.event != nil {
		event := a.wireEvent(*s.event, s.payload)
		details.Event = &event
	}
	return details
}

func (a *app) printShown(out io.Writer, s shown, now time.Time) {
	r := s.run
	fields := newFields(out)
	fields.say("RUN", fmt.Sprint(r.ID))
	fields.say("STATUS", statusOf(r, now).text)
	fields.say("HANDLER", r.Handler)
	fields.say("ATTEMPT", fmt.Sprintf("%d (cycle %d)", r.Attempt, r.Cycle+1))
	if r.Status != store.Pending || r.DueAt.IsZero() {
		fields.say("INSTANCE", r.Instance)
	}
	fields.say("STARTED", at(r.StartedAt, now))
	fields.say("FINISHED", at(r.FinishedAt, now))
	fields.say("LAST ERROR", strings.TrimSpace(string(r.ErrorKind)+" "+words.Line(r.Error)))
	fields.say("GROUP", r.Fingerprint)
	fields.say("TOPIC", r.Topic)
	fields.say("EVENT", r.EventID)
	if s.event == nil {
		fields.say("", "is no longer in the database")
	} else {
		fields.event(*s.event, now)
	}
	fields.flush()
	if s.event != nil {
		a.printPayload(out, *s.event, s.payload)
	}
	if len(s.attempts) > 0 {
		fmt.Fprintln(out, "\nFAILED ATTEMPTS")
		if s.earlier > 0 {
			fmt.Fprintf(out, "… %s before these; --full shows all\n", words.Several(s.earlier, "attempt"))
		}
		t := a.table("ATTEMPT", "CYCLE", "AT", "TOOK", "KIND", "INSTANCE", "ERROR")
		for _, tried := range s.attempts {
			t.add(tried.Attempt, tried.Cycle+1, at(tried.FinishedAt, now), took(tried), tried.Kind, tried.Instance, tried.Message)
		}
		t.write(out)
		for _, tried := range s.attempts {
			if tried.Stack != "" {
				fmt.Fprintf(out, "\nSTACK OF ATTEMPT %d\n%s\n", tried.Attempt, strings.TrimSpace(tried.Stack))
			}
		}
	}
	if len(s.operations) > 0 {
		fmt.Fprintln(out, "\nOPERATIONS")
		a.printOperations(out, s.operations, now)
	}
}

// took returns how long an attempt lasted.
func took(a store.Attempt) time.Duration {
	return a.FinishedAt.Sub(a.StartedAt).Round(time.Millisecond)
}

// fields prints names with values, for people.
type fields struct{ out *tabwriter.Writer }

func newFields(out io.Writer) fields { return fields{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)} }

// say adds a value, unless it is empty.
func (f fields) say(name, value string) {
	if value != "" {
		fmt.Fprintf(f.out, "%s\t%s\n", name, words.Line(value))
	}
}

// event adds the fields of an event besides its id and topic.
func (f fields) event(e store.EventHead, now time.Time) {
	f.say("KEY", e.Key)
	f.say("PUBLISHED", at(e.PublishedAt, now))
	f.say("SOURCE", e.Source)
	f.say("AMENDS", e.Amends)
	for _, k := range slices.Sorted(maps.Keys(e.Metadata)) {
		f.say("  "+words.Line(k), e.Metadata[k])
	}
	if e.MetadataUnread {
		f.say("METADATA", fmt.Sprintf("%s bytes, which are too many to show", words.Thousands(e.MetadataBytes)))
	}
}

func (f fields) flush() { f.out.Flush() } // in memory it cannot fail
