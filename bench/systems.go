package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// A system is one of those compared. It always runs in a process of its own, on a database of its
// own: command returns the line that starts that process, or an error that says why it cannot.
type system struct {
	name    string
	about   string
	partial bool // does only the works that name it
	command func() ([]string, error)
	open    opener            // what the process runs, if it is this program
	notes   map[string]string // by work: what to know about the figure
}

// What all systems are given alike.
const (
	connections = 40 // in the pool of one process
	retryAfter  = 100 * time.Millisecond
)

var systems = []*system{
	{
		name:    ours,
		about:   "every run is on record; 2,000 handler calls at once; its defaults for latency and idle",
		command: goCommand(ours),
		open:    openReprise,
	},
	{
		name:    "river",
		about:   "River on pgx, 2,000 workers, 2 ms fetch cooldown, as in its own benchmark; its defaults for latency and idle",
		command: goCommand("river"),
		open:    openRiver,
		notes:   map[string]string{"fan-10": "no topics: the publisher inserts ten jobs"},
	},
	{
		name:    "graphile",
		about:   "Graphile Worker on Node, one process, 24 jobs at once, prefetch and batched completion, as in its own performance test; its defaults for latency and idle; it deletes finished jobs and keeps no record",
		command: graphileCommand,
		notes: map[string]string{
			"fan-10": "no topics: the publisher adds ten jobs",
			"mixed":  "its first retry comes after 2.7 s, which cannot be set",
		},
	},
	{
		name:    "watermill",
		about:   "stock watermill-sql behind a router, its defaults; nothing is recorded",
		command: goCommand("watermill"),
		open:    openWatermill,
		notes:   stockNotes,
	},
	{
		name:    "naive",
		about:   "the same with a middleware that INSERTs PENDING and UPDATEs SUCCESS, one statement each; on Kafka, with stock watermill-kafka",
		command: goCommand("naive"),
		open:    openNaive,
		notes:   stockNotes,
	},
	{
		name:    stockKafka,
		about:   "stock watermill-kafka behind a router, its defaults, but from the oldest offset; nothing is recorded",
		partial: true,
		command: goCommand(stockKafka),
		open:    openWatermillKafka,
		notes:   stockNotes,
	},
	{
		name:    withoutBroker,
		about:   "reprise without a broker: events and runs are written in the database",
		partial: true,
		command: goCommand(withoutBroker),
		open:    openWithoutBroker,
	},
}

// Systems that works name.
const (
	stockKafka    = "watermill-kafka"
	withoutBroker = "reprise-database"
)

var onKafka = []string{ours, "naive", stockKafka}

var stockNotes = map[string]string{
	"slow":          "one message at a time",
	"mixed":         "retried by middleware.Retry, which holds the group",
	"kafka-slow":    "one message of a partition at a time",
	"kafka-slow-16": "one message of a partition at a time",

	"kafka-publish-16": "waits for the leader, not for all replicas in sync",
}

// goCommand is this program as the process that runs a system.
func goCommand(name string) func() ([]string, error) {
	return func() ([]string, error) {
		self, err := os.Executable()
		return []string{self, childArg, name}, err
	}
}

func systemNames() []string {
	var names []string
	for _, s := range systems {
		names = append(names, s.name)
	}
	return names
}

func systemNamed(name string) *system {
	if i := slices.IndexFunc(systems, func(s *system) bool { return s.name == name }); i >= 0 {
		return systems[i]
	}
	return nil
}

// choose returns those of the known names that list asks for, in its order; "all" is all of them.
func choose(what, list string, known []string) ([]string, error) {
	if list == "all" {
		return known, nil
	}
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("-%s: %q is not one of %s", what, name, strings.Join(known, ", "))
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}
