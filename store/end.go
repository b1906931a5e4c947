package store

import (
	"context"
	"fmt"
	"slices"
)

const (
	maxMessage = 8 << 10  // bytes kept of an error's message
	maxStack   = 32 << 10 // bytes kept of a panic's stack
)

// End writes how attempts ended, all of them or, with an error, none. It is a
// compare-and-set: an outcome counts only while its lease holds, that is while
// the run is Pending with the same instance and attempt. The leases that were
// lost are returned; nothing is written for them. An outcome that the database
// has already, because the answer to an earlier call was lost, is not.
func (s *Store) End(ctx context.Context, outcomes []Outcome) (lost []Lease, err error) {
	if len(outcomes) == 0 {
		return nil, nil
	}
	for i, o := range outcomes {
		if err := o.validate(); err != nil {
			return nil, err
		}
		if o.Failure != nil {
			outcomes[i].Failure = &Failure{
				Kind:    o.Failure.Kind,
				Message: printable(o.Failure.Message, maxMessage),
				Stack:   printable(o.Failure.Stack, maxStack),
			}
		}
	}
	ended, err := s.dialect.end(ctx, s, outcomes)
	if err != nil {
		return nil, fmt.Errorf("write the end of %d runs: %w", len(outcomes), err)
	}
	if len(ended) == len(outcomes) {
		return nil, nil
	}
	written := make(map[Lease]bool, len(ended))
	for _, l := range ended {
		written[l] = true
	}
	var missing []Outcome
	for _, o := range outcomes {
		if !written[o.Lease] {
			missing = append(missing, o)
		}
	}
	return s.notEndedSo(ctx, missing)
}

// notEndedSo returns the leases of those outcomes that are not what the
// database says.
func (s *Store) notEndedSo(ctx context.Context, outcomes []Outcome) (lost []Lease, err error) {
	stands := make(map[Lease]Status, len(outcomes))
	for chunk := range slices.Chunk(outcomes, MaxLimit) {
		f := Filter{Limit: MaxLimit}
		for _, o := range chunk {
			f.IDs = append(f.IDs, o.Lease.RunID)
		}
		runs, err := s.Runs(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			if r.Status != Pending {
				stands[Lease{RunID: r.ID, Instance: r.Instance, Attempt: r.Attempt}] = r.Status
			}
		}
	}
	for _, o := range outcomes {
		if stands[o.Lease] != o.Status {
			lost = append(lost, o.Lease)
		}
	}
	return lost, nil
}

func (o Outcome) validate() error {
	switch {
	case o.Status != Success && o.Status != Failed && o.Status != Pending:
		return fmt.Errorf("end %v: status %q: want %s, %s or %s", o.Lease, o.Status, Success, Failed, Pending)
	case o.Status == Failed && o.Failure == nil:
		return fmt.Errorf("end %v: a failed run needs a Failure", o.Lease)
	case o.Status == Success && o.Failure != nil:
		return fmt.Errorf("end %v: a successful run has no Failure", o.Lease)
	case o.Failure != nil:
		if err := validName("failure kind", string(o.Failure.Kind)); err != nil {
			return fmt.Errorf("end %v: %w", o.Lease, err)
		}
	}
	return nil
}
