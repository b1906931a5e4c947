package pubsub_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	_ "modernc.org/sqlite"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// An Inbox around Watermill's GoChannel. What the channel delivers twice is
// handled once.
func ExamplePubSub_Inbox() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", ":memory:")
	check(err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	check(migrations.Up(ctx, db, ""))
	st, err := store.New(ctx, db, "")
	check(err)
	subscriber := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	check(err)
	router.AddMiddleware(middleware.Record(st))
	handled := make(chan struct{})
	sendWelcomeEmail := func(msg *message.Message) error {
		fmt.Println("handled:", string(msg.Payload))
		close(handled)
		return nil
	}

	ps, err := pubsub.New(st, pubsub.Config{})
	check(err)
	in, err := ps.Inbox(subscriber, "send-welcome-email", handlers.Policy{}, pubsub.InboxConfig{Recorded: true})
	check(err)
	router.AddConsumerHandler("send-welcome-email", "user.signed_up", in, sendWelcomeEmail)

	go router.Run(ctx) //nolint:errcheck // Close ends it
	<-router.Running()
	for range 2 { // acknowledged, and therefore on record, when Publish returns
		check(subscriber.Publish("user.signed_up", message.NewMessage("1", []byte(`{"Email": "ada@example.com"}`))))
	}
	<-handled
	check(router.Close())
	check(ps.Close())

	runs, err := st.Runs(ctx, store.Filter{})
	check(err)
	fmt.Println(len(runs), "run:", runs[0].Status, "on attempt", runs[0].Attempt)
	// Output:
	// handled: {"Email": "ada@example.com"}
	// 1 run: SUCCESS on attempt 1
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
