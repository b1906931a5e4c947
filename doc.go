// Package reprise is an in-process event bus that keeps, in the application's
// own database, a record of every handler run, so that what failed can be run
// again. It has no code: this page is the map.
//
// An application publishes domain events and reacts to them in named handlers:
//
//	type UserSignedUp struct{ ID, Email string }
//
//	func (UserSignedUp) EventName() string { return "user.signed_up" }
//
//	b, err := bus.Open(ctx, "postgres://…", bus.Config{}) // or "sqlite:app.db"
//	err = b.Handle(handlers.New("send-welcome-email", sendWelcomeEmail))
//	err = b.PublishTx(ctx, tx, UserSignedUp{ID: id, Email: email})
//	err = b.Run(ctx)
//
// Publishing writes the event, and a PENDING run for each handler of its
// topic, in one statement. A run that is due is claimed by one process, handed
// to its handler through Watermill's router, and ends SUCCESS or FAILED; what
// failed keeps its error and is run again on request:
//
//	failed, err := b.Store().Runs(ctx, store.Filter{Status: store.Failed})
//	again, err := replay.All(ctx, b.Store(), store.Filter{Handler: "send-welcome-email"}, replay.Request{})
//
// # Where to look
//
//   - [github.com/reprise-bus/reprise/bus]: what an application talks to
//   - [github.com/reprise-bus/reprise/handlers]: what a handler is, its Policy, and how its errors are classed
//   - [github.com/reprise-bus/reprise/middleware]: Record, for any Watermill router; Timeout and Transaction
//   - [github.com/reprise-bus/reprise/pubsub]: the Watermill publisher and subscriber; Inbox and Outbox, for brokers: pubsub/kafka, pubsub/nats
//   - [github.com/reprise-bus/reprise/store]: the record: events, runs, attempts, and how they are selected
//   - [github.com/reprise-bus/reprise/replay]: what an operator does: replays, discards, edits, backfills, upkeep
//   - [github.com/reprise-bus/reprise/health]: what is wrong, and what to do
//   - [github.com/reprise-bus/reprise/schedule]: when something periodic is due: cron expressions and intervals
//   - [github.com/reprise-bus/reprise/reprisetest]: handlers and events in tests, and runs out of production
//   - github.com/reprise-bus/reprise/cli: the command line, of which cmd/reprise is made
//   - [github.com/reprise-bus/reprise/migrations]: the tables
//
// DESIGN.md follows one event through all of them.
package reprise
