package middleware_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	_ "modernc.org/sqlite"

	"github.com/reprise-bus/reprise/middleware"
	"github.com/reprise-bus/reprise/migrations"
	"github.com/reprise-bus/reprise/store"
)

// A router over Watermill's GoChannel, which delivers again what fails.
func ExampleRecord() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", ":memory:")
	check(err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	channel := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	check(err)

	err = migrations.Up(ctx, db, "") // db is your *sql.DB; "" is the schema "reprise"
	check(err)
	st, err := store.New(ctx, db, "")
	check(err)
	router.AddMiddleware(middleware.Record(st)) // around all that belongs to the attempt

	called := 0
	router.AddConsumerHandler("send-welcome-email", "user.signed_up", channel, func(msg *message.Message) error {
		if called++; called == 1 {
			return errors.New("the mail server is down")
		}
		return nil
	})
	go router.Run(ctx) //nolint:errcheck // Close ends it
	<-router.Running()
	check(channel.Publish("user.signed_up", message.NewMessage("1", []byte(`{"Email": "ada@example.com"}`))))
	check(router.Close())

	runs, err := st.Runs(ctx, store.Filter{Handler: "send-welcome-email"})
	check(err)
	fmt.Println(runs[0].Status, "on attempt", runs[0].Attempt)
	attempts, err := st.Attempts(ctx, runs[0].ID)
	check(err)
	fmt.Println("attempt", attempts[0].Attempt, "failed:", attempts[0].Message)
	// Output:
	// SUCCESS on attempt 2
	// attempt 1 failed: the mail server is down
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
