package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// A plan is what is to be measured. A round does every work with every system once, so that what
// the machine does meanwhile is shared by all; the result is the median of the rounds.
type plan struct {
	cluster *cluster
	kafka   *broker // nil: there is none
	systems []*system
	works   []*work
	rounds  int
	scale   float64 // of every work's n
	limit   time.Duration
	log     io.Writer
	commit  string // of what is measured
}

// run returns the results of what was measured, also when ctx ends early. A trial that fails is
// a note in its result and part of the error; the others go on.
func (p plan) run(ctx context.Context) ([]result, error) {
	measured := make(map[[2]string][]figures)
	kept := make(map[string]string) // database by work
	var failures []error
	defer func() {
		for _, name := range kept {
			if err := p.cluster.drop(ctx, name); err != nil {
				fmt.Fprintln(p.log, err)
			}
		}
	}()
	for round := range p.rounds {
		for _, w := range p.works {
			for i := range p.systems {
				s := p.systems[(i+round)%len(p.systems)] // none is always the first
				if !w.does(s) {
					continue
				}
				key := [2]string{s.name, w.name}
				f, err := p.try(ctx, s, w, kept)
				var no notOffered
				switch {
				case ctx.Err() != nil:
					return p.results(measured), errors.Join(append(failures, context.Cause(ctx))...)
				case errors.As(err, &no):
					f = figures{Note: "not offered: " + no.Error()}
				case err != nil:
					failures = append(failures, err)
					f = figures{Note: "failed: " + firstLine(err.Error())}
				}
				measured[key] = append(measured[key], f)
				fmt.Fprintf(p.log, "round %d/%d  %-16s %-16s %s\n", round+1, p.rounds, w.name, s.name, w.describe(f))
			}
		}
	}
	return p.results(measured), errors.Join(failures...)
}

func (p plan) try(ctx context.Context, s *system, w *work, kept map[string]string) (f figures, err error) {
	t := &trial{system: s, cluster: p.cluster, kafka: p.kafka, n: p.size(w), limit: p.limit, name: kept[w.name]}
	if t.name == "" {
		t.fresh = true
		if t.name, err = p.cluster.create(ctx, s.name); err != nil {
			return f, err
		}
	}
	if w.keep {
		kept[w.name] = t.name
	} else {
		defer func() { err = errors.Join(err, p.cluster.drop(ctx, t.name)) }()
	}
	return t.run(ctx, w)
}

// size is the n of a work at this plan's scale.
func (p plan) size(w *work) int {
	if w.fixed {
		return w.n
	}
	return max(1, int(float64(w.n)*p.scale+0.5))
}

func (p plan) results(measured map[[2]string][]figures) []result {
	var rs []result
	for _, w := range p.works {
		for _, s := range p.systems {
			if fs := measured[[2]string{s.name, w.name}]; len(fs) > 0 {
				rs = append(rs, result{System: s.name, Work: w.name, N: p.size(w), figures: medians(fs), work: w})
			}
		}
	}
	return rs
}
