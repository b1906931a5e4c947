package main

import (
	"strings"
	"testing"
	"time"
)

func TestOptionsMakeAPlan(t *testing.T) {
	o := options{systems: "river,reprise,river", works: "drain,history,latency", history: "0, 1000000", rounds: 1, n: 2000, limit: time.Second, output: "json"}
	p, err := o.plan(nil)
	if err != nil {
		t.Fatal(err)
	}
	var systems, works []string
	for _, s := range p.systems {
		systems = append(systems, s.name)
	}
	for _, w := range p.works {
		works = append(works, w.name)
	}
	if got := strings.Join(systems, " "); got != "river reprise" {
		t.Errorf("systems %s", got)
	}
	if got := strings.Join(works, " "); got != "drain history-0 history-1000000 latency" {
		t.Errorf("works %s", got)
	}
	if n := p.size(p.works[0]); n != 2000 {
		t.Errorf("drain of %d events, want 2000", n)
	}
	if n := p.size(p.works[3]); n != 20 {
		t.Errorf("%d latency samples, want 20", n)
	}
}

func TestBadOptionsAreAllNamed(t *testing.T) {
	o := options{systems: "kafka", works: "sleep", history: "many", output: "xml"}
	_, err := o.plan([]string{"rest"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"kafka"`, `"sleep"`, `"many"`, `"xml"`, `"rest"`, "-rounds", "-n ", "-limit"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}

func TestWorksOfReprisesTablesNeedReprise(t *testing.T) {
	o := options{systems: "river", works: "floor", history: "0", rounds: 1, n: 1, limit: time.Second, output: "json"}
	if _, err := o.plan(nil); err == nil || !strings.Contains(err.Error(), "floor is done by reprise") {
		t.Errorf("error %v", err)
	}
	o.works = "floor,drain"
	if p, err := o.plan(nil); err != nil || len(p.works) != 1 {
		t.Errorf("%d works, %v", len(p.works), err)
	}
}

func TestSystemsOnKafkaDoTheWorksThatNameThem(t *testing.T) {
	o := options{systems: "river,watermill-kafka", works: "drain,kafka,outbox-down", history: "0", rounds: 1, n: 1, limit: time.Second, output: "json"}
	p, err := o.plan(nil)
	if err != nil {
		t.Fatal(err)
	}
	var pairs []string
	for _, w := range p.works {
		for _, s := range p.systems {
			if w.does(s) {
				pairs = append(pairs, w.name+" by "+s.name)
			}
		}
	}
	if got := strings.Join(pairs, ", "); got != "drain by river, kafka by watermill-kafka" {
		t.Errorf("done: %s", got)
	}
}

func TestWhatWorksNameIsASystem(t *testing.T) {
	for _, w := range works {
		for _, name := range w.only {
			if systemNamed(name) == nil {
				t.Errorf("%s is done by %q, which is no system", w.name, name)
			}
		}
	}
	for _, s := range systems {
		if colours[s.name] == "" {
			t.Errorf("%s has no colour", s.name)
		}
	}
}
