package replay_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

type UserSignedUp struct{ ID, Email string }

func (UserSignedUp) EventName() string { return "user.signed_up" }

// The mail server is down for two sign-ups. When it is back, one run is replayed
// by its id, and the rest of its failure group by its fingerprint.
func ExampleAll() {
	ctx := context.Background()
	up := false
	sendWelcomeEmail := func(_ context.Context, e UserSignedUp) error {
		if !up {
			return handlers.Permanent(errors.New("451 the mail server is down"))
		}
		fmt.Println("welcome,", e.Email)
		return nil
	}
	b, err := bus.Open(ctx, "sqlite::memory:", bus.Config{})
	check(err)
	defer b.Close()
	serve(b, 2, "send-welcome-email", sendWelcomeEmail,
		UserSignedUp{"1", "ada@example.com"}, UserSignedUp{"2", "grace@example.com"})

	failed, err := b.Store().Runs(ctx, store.Filter{Status: store.Failed, Handler: "send-welcome-email"})
	check(err)
	attempts, err := b.Store().Attempts(ctx, failed[0].ID) // every failure, with a panic's stack
	check(err)
	groups, err := b.Store().Groups(ctx, store.Filter{})
	check(err)
	fmt.Println(len(failed), "runs failed with", attempts[0].Message, "in", len(groups), "group")

	one, err := replay.One(ctx, b.Store(), failed[0].ID, replay.Request{By: "maria", Reason: "mail server is back"})
	check(err)
	group, err := replay.All(ctx, b.Store(), store.Filter{Group: groups[0].Fingerprint}, replay.Request{Rate: 50})
	check(err)
	fmt.Println("taken up:", one.Taken, "by", one.RequestedBy, "and", group.Taken)

	up = true
	serve(b, 2, "send-welcome-email", sendWelcomeEmail)
	far, err := replay.Progress(ctx, b.Store(), group.ID) // far.Succeeded, far.Failed, far.Left(), far.Arrived
	check(err)
	fmt.Println("succeeded:", far.Succeeded, "left:", far.Left())
	// Unordered output:
	// 2 runs failed with 451 the mail server is down in 1 group
	// taken up: 1 by maria and 1
	// welcome, ada@example.com
	// welcome, grace@example.com
	// succeeded: 1 left: 0
}

// A dry run: what a replay would do, and what is in its way.
func ExamplePreview() {
	ctx := context.Background()
	b, err := bus.Open(ctx, "sqlite::memory:", bus.Config{})
	check(err)
	defer b.Close()
	sendWelcomeEmail := func(context.Context, UserSignedUp) error {
		return handlers.Permanent(errors.New("451 the mail server is down"))
	}
	serve(b, 2, "send-welcome-email", sendWelcomeEmail, UserSignedUp{"1", "ada@example.com"}, UserSignedUp{"2", "grace@example.com"})

	selection := store.Filter{Handler: "send-welcome-email"}
	plan, err := replay.Preview(ctx, b.Store(), selection, replay.Request{})
	check(err)
	fmt.Println("Would replay", plan)
	for _, part := range plan.Parts { // by handler and kind of failure
		fmt.Println(part.Runs, "failed with", part.Error, "and", part.Instances, "instances serve", part.Handler)
	}
	for _, obstacle := range plan.Obstacles() {
		fmt.Println(obstacle)
	}
	if plan.Refusal() == nil {
		operation, err := replay.All(ctx, b.Store(), selection, replay.Request{By: "maria", Reason: "mail server is back"})
		check(err)
		fmt.Println("taken up:", operation.Taken)
	}
	// Output:
	// Would replay 2 runs of send-welcome-email (2)
	// 2 failed with 451 the mail server is down and 0 instances serve send-welcome-email
	// No live instance serves send-welcome-email (2): what is replayed waits until one does.
	// taken up: 2
}

// An operator publishes an event that the application has lost. It is on record who did
// it, and why.
func ExampleNewPublisher() {
	ctx := context.Background()
	b, err := bus.Open(ctx, "sqlite::memory:", bus.Config{})
	check(err)
	defer b.Close()
	sendWelcomeEmail := func(_ context.Context, e UserSignedUp) error {
		fmt.Println("welcome,", e.Email)
		return nil
	}
	serve(b, 0, "send-welcome-email", sendWelcomeEmail) // registered, and nothing to do

	publisher, err := replay.NewPublisher(ctx, b.Store(), "user.signed_up", replay.PublisherConfig{}, replay.Request{By: "maria", Reason: "the form lost it"})
	check(err)
	defer publisher.Close()
	check(publisher.Publish(ctx, message.NewMessage(watermill.NewUUID(), []byte(`{"ID": "1", "Email": "ada@example.com"}`))))
	check(publisher.Complete(ctx))
	operation, err := b.Store().Operation(ctx, publisher.Operation())
	check(err)
	fmt.Println("published by", operation.RequestedBy, "since", operation.Reason)
	serve(b, 1, "send-welcome-email", sendWelcomeEmail)
	// Output:
	// published by maria since the form lost it
	// welcome, ada@example.com
}

// A handler that comes later is given the events that are on record.
func ExampleBackfill() {
	ctx := context.Background()
	b, err := bus.Open(ctx, "sqlite::memory:", bus.Config{})
	check(err)
	defer b.Close()
	ignore := func(context.Context, UserSignedUp) error { return nil }
	serve(b, 2, "send-welcome-email", ignore, UserSignedUp{"1", "ada@example.com"}, UserSignedUp{"2", "grace@example.com"})

	grantTrial := func(_ context.Context, e UserSignedUp) error {
		fmt.Println("a trial for", e.Email)
		return nil
	}
	serve(b, 0, "grant-trial", grantTrial) // registered, and nothing to do
	operation, err := replay.Backfill(ctx, b.Store(), replay.Past{Handler: "grant-trial"}, replay.Request{By: "maria"})
	check(err)
	fmt.Println("runs created:", operation.Taken)
	serve(b, 2, "grant-trial", grantTrial)
	// Unordered output:
	// runs created: 2
	// a trial for ada@example.com
	// a trial for grace@example.com
}

// An event that was published with a mistake is corrected. The run on the old
// event is DISCARDED; the new event, which amends the old one, gets a run.
func ExampleEdit() {
	ctx := context.Background()
	b, err := bus.Open(ctx, "sqlite::memory:", bus.Config{})
	check(err)
	defer b.Close()
	sendWelcomeEmail := func(_ context.Context, e UserSignedUp) error {
		if e.Email == "" {
			return handlers.Permanent(errors.New("no address"))
		}
		fmt.Println("welcome,", e.Email)
		return nil
	}
	serve(b, 1, "send-welcome-email", sendWelcomeEmail, UserSignedUp{ID: "1"})

	correction := store.Correction{Payload: []byte(`{"ID": "1", "Email": "ada@example.com"}`)}
	_, next, err := replay.Edit(ctx, b.Store(), 1, correction, replay.Request{By: "maria", Reason: "the form lost the address"})
	check(err)
	serve(b, 1, "send-welcome-email", sendWelcomeEmail)

	old, err := b.Store().Run(ctx, 1)
	check(err)
	fmt.Println("run", old.ID, old.Status, "with", old.Error)
	next, err = b.Store().Run(ctx, next.ID)
	check(err)
	fmt.Println("run", next.ID, next.Status)
	// Output:
	// welcome, ada@example.com
	// run 1 DISCARDED with no address
	// run 2 SUCCESS
}

// serve is a process of the application: it publishes the events, and serves the
// handler until that was called so often.
func serve(b *bus.Bus, calls int, handler string, f func(context.Context, UserSignedUp) error, events ...any) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	process, err := bus.New(ctx, bus.Config{DB: b.DB(), Concurrency: 1, Logger: slog.New(slog.DiscardHandler)})
	check(err)
	left := calls
	check(process.Handle(handlers.New(handler, func(ctx context.Context, e UserSignedUp) error {
		if left--; left <= 0 {
			stop() // Run returns when the end of this run is on record
		}
		return f(ctx, e)
	})))
	if len(events) > 0 {
		check(process.Publish(ctx, events...))
	}
	if calls == 0 {
		stop()
	}
	check(process.Run(ctx))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
