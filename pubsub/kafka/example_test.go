package kafka_test

import (
	"fmt"
	"log"
	"net/url"

	"github.com/reprise-bus/reprise/pubsub/kafka"
)

// What a URL says of Kafka. Nothing is connected to yet.
func ExampleParse() {
	u, err := url.Parse("kafka://app:secret@kafka-1:9092,kafka-2:9092?mechanism=SCRAM-SHA-512&tls=true&group_prefix=shop.")
	if err != nil {
		log.Fatal(err)
	}
	config, err := kafka.Parse(u)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(config.Brokers, config.Username, config.Mechanism, config.TLS != nil, config.GroupPrefix)
	transport, err := kafka.New(config)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(transport.Name, transport.ValidTopic("user.signed_up"))
	// Output:
	// [kafka-1:9092 kafka-2:9092] app SCRAM-SHA-512 true shop.
	// kafka <nil>
}
