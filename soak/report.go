package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// verdict is what became of one promise.
type verdict struct {
	Promise  string   `json:"promise"`
	Cases    int      `json:"cases"`
	Broken   int      `json:"broken"`
	Examples []string `json:"examples,omitempty"`
}

const maxExamples = 5

func (v *verdict) add(cases int, broken []string) {
	v.Cases += cases
	v.Broken += len(broken)
	for _, b := range broken {
		if len(v.Examples) < maxExamples {
			v.Examples = append(v.Examples, b)
		}
	}
}

func (v verdict) word() string {
	if v.Broken > 0 {
		return "FAIL"
	}
	return "PASS"
}

// report is what a soak found out.
type report struct {
	Database string       `json:"database"`
	Seed     uint64       `json:"seed"`
	Seconds  float64      `json:"seconds"` // with faults
	Settled  float64      `json:"settled"` // seconds from the last fault until nothing was pending
	Events   int          `json:"events"`
	Runs     int          `json:"runs"`
	Faults   map[kind]int `json:"faults"`
	Crew     tally        `json:"processes"`
	Verdicts []verdict    `json:"promises"`
	Passed   bool         `json:"passed"`
}

func (r *report) conclude() {
	r.Passed = true
	for _, v := range r.Verdicts {
		r.Passed = r.Passed && v.Broken == 0
	}
}

func (r report) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

func (r report) writeTable(w io.Writer) error {
	fmt.Fprintf(w, "\n%s, seed %d: %d events, %d runs in %.0f s of faults; all ended %.0f s later\n", r.Database, r.Seed, r.Events, r.Runs, r.Seconds, r.Settled)
	fmt.Fprintf(w, "faults:")
	for _, k := range kinds() {
		fmt.Fprintf(w, " %s %d,", k, r.Faults[k])
	}
	fmt.Fprintf(w, " and %d processes killed by their handler; %d processes in all\n\n", r.Crew.Suicides, r.Crew.Starts)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PROMISE\tCASES\tBROKEN\t")
	for _, v := range r.Verdicts {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%s\n", v.Promise, v.Cases, v.Broken, v.word())
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, v := range r.Verdicts {
		if v.Broken == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s: %d broken\n", v.Promise, v.Broken)
		for _, e := range v.Examples {
			fmt.Fprintf(w, "  %s\n", e)
		}
	}
	return nil
}
