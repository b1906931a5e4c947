// Command testkafka runs a command beside a throwaway Kafka broker:
//
//	go run ./internal/testkafka [-partitions N] [-c NAME=VALUE]... -- COMMAND ARGS...
//
// COMMAND finds the broker's host:port in KAFKA_BROKERS, and testkafka exits
// with COMMAND's exit code. (go run itself reports any failure as 1.) The broker
// is gone, and its files with it, when testkafka ends, however it ends.
//
// If KAFKA_BROKERS is already set, COMMAND gets those brokers instead and none
// is started. Else the broker is Apache Kafka, whose jars are downloaded once
// (from MAVEN_REPOSITORY, by default Maven Central). Where there is no Java, or
// no way to the jars, it is kfake, which speaks Kafka's protocol within
// testkafka. REPRISE_TEST_KAFKA says to COMMAND which of the three it is: given,
// real or kfake.
//
// Without a COMMAND, testkafka prints the address and keeps the broker up until
// a signal. COMMAND has no standard input, and a process group of its own: a
// signal sent to testkafka, or typed at the terminal, reaches all of it once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/reprise-bus/reprise/internal/beside"
	"github.com/reprise-bus/reprise/internal/kafkaserver"
)

const (
	brokersVariable = "KAFKA_BROKERS"
	kindVariable    = "REPRISE_TEST_KAFKA"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("testkafka", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: go run ./internal/testkafka [-partitions N] [-c NAME=VALUE]... [-- COMMAND ARGS...]")
		flags.PrintDefaults()
	}
	var options kafkaserver.Options
	flags.IntVar(&options.Partitions, "partitions", 4, "how many `partitions` a topic gets that is made without saying")
	flags.Func("c", "set a `NAME=VALUE` of the configuration of Apache Kafka; may be repeated", func(s string) error {
		options.Settings = append(options.Settings, s)
		return nil
	})
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	ctx, signals, cancel := beside.Signals()
	defer cancel()
	code, err := serve(ctx, flags.Args(), options, signals, stdout, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "testkafka:", err)
	}
	return code
}

func serve(ctx context.Context, command []string, options kafkaserver.Options, signals <-chan os.Signal, stdout, stderr io.Writer) (int, error) {
	if len(command) > 0 {
		if _, err := exec.LookPath(command[0]); err != nil {
			return 127, err
		}
		if addrs := os.Getenv(brokersVariable); addrs != "" {
			if err := connect(ctx, addrs); err != nil {
				return 1, err
			}
			fmt.Fprintf(stderr, "testkafka: using the brokers of %s, %s\n", brokersVariable, addrs)
			return beside.Run(command, signals, kindVariable+"=given")
		}
	}

	b, err := start(ctx, options)
	if ctx.Err() != nil && err != nil {
		return 1, errors.New("interrupted")
	} else if err != nil {
		return 1, err
	}
	defer func() {
		if tail := b.close(); tail != "" {
			fmt.Fprintf(stderr, "testkafka: the broker ended by itself; its log ends:\n%s\n", tail)
		}
	}()
	if len(command) == 0 {
		fmt.Fprintf(stderr, "testkafka: %s is up; export %s=%s and %s=%s to use it, interrupt to stop it\n", b.what, brokersVariable, b.addr, kindVariable, b.kind)
		fmt.Fprintln(stdout, b.addr)
		select {
		case <-signals:
			return 0, nil
		case <-b.ended:
			return 1, nil
		}
	}
	fmt.Fprintf(stderr, "testkafka: using %s, at %s\n", b.what, b.addr)
	return beside.Run(command, signals, brokersVariable+"="+b.addr, kindVariable+"="+b.kind)
}

// connect reports in one sentence why the brokers that the caller named cannot
// be used.
func connect(ctx context.Context, addrs string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := kafkaserver.Ping(ctx, strings.Split(addrs, ",")...); err != nil {
		return fmt.Errorf("cannot connect to %s, the brokers of %s (%w): start them, correct the variable, which is host:port,host:port, or unset it to get a throwaway broker", addrs, brokersVariable, err)
	}
	return nil
}
