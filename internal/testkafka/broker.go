package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/reprise-bus/reprise/internal/kafkaserver"
)

// broker is the one that the command gets.
type broker struct {
	addr  string
	kind  string // of REPRISE_TEST_KAFKA
	what  string // for people
	ended <-chan struct{}
	close func() (died string)
}

// start starts Apache Kafka, or kfake where that cannot be had.
func start(ctx context.Context, options kafkaserver.Options) (broker, error) {
	server, err := kafkaserver.Start(ctx, options)
	if err == nil {
		return broker{addr: server.Addr, kind: "real", what: "Apache Kafka", ended: server.Ended(), close: server.Close}, nil
	}
	if ctx.Err() != nil || !errors.Is(err, kafkaserver.ErrNotFound) && !errors.Is(err, kafkaserver.ErrUnavailable) {
		return broker{}, err
	}
	cluster, fakeErr := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(options.Partitions))
	if fakeErr != nil {
		return broker{}, errors.Join(err, fakeErr)
	}
	return broker{
		addr: cluster.ListenAddrs()[0], kind: "kfake", what: fmt.Sprintf("kfake instead of Apache Kafka (%v)", err),
		close: func() string { cluster.Close(); return "" },
	}, nil
}
