package nats_test

import (
	"fmt"
	"log"
	"net/url"

	"github.com/reprise-bus/reprise/pubsub/nats"
)

// What a URL says of NATS. Nothing is connected to yet.
func ExampleParse() {
	u, err := url.Parse("nats://nats-1:4222,nats-2:4222?stream=EVENTS&group_prefix=shop-")
	if err != nil {
		log.Fatal(err)
	}
	config, err := nats.Parse(u)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(config.URL, config.Stream, config.GroupPrefix)
	transport, err := nats.New(config)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(transport.Name, transport.ValidTopic("user.signed_up"))
	// Output:
	// nats://nats-1:4222,nats://nats-2:4222 EVENTS shop-
	// nats <nil>
}
