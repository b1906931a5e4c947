package transport_test

import (
	"context"
	"fmt"
	"log"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/pubsub/transport"
)

// The environment decides what carries the events. Here REPRISE_TRANSPORT is not
// set: the database does.
func ExampleFromEnv() {
	ctx, databaseURL := context.Background(), "sqlite::memory:"

	carrier, err := transport.FromEnv() // REPRISE_TRANSPORT=kafka://broker:9092; not set: the database
	check(err)
	b, err := bus.Open(ctx, databaseURL, bus.Config{Transport: carrier})
	check(err)
	defer b.Close()
	fmt.Println("the database carries the events:", carrier == nil)
	// Output: the database carries the events: true
}

// A URL names the broker and how events are published. Errors show no password.
func ExampleOpen() {
	carrier, err := transport.Open("kafka://app:secret@kafka-1:9092?mode=outbox", nil)
	check(err)
	fmt.Println(carrier.Name, carrier.Mode)
	_, err = transport.Open("kafka://app:secret@kafka-1:9092?mode=later", nil)
	fmt.Println(err)
	// Output:
	// kafka outbox
	// mode "later": want direct, outbox, hold, database
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
