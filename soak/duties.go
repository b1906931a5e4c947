package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

// duty is a handler as the audit sees it.
type duty struct {
	topic, name string
	policy      handlers.Policy
	notes       bool // it notes each invocation outside of any transaction
	// ending is what the script demands of its run; the kind is that of the
	// failure.
	ending func(s Script) (store.Status, store.Kind)
}

// patient is a policy under which no number of deaths makes a run fail.
func patient() handlers.Policy {
	return handlers.Policy{Attempts: 1_000_000, Cycles: 1, Backoff: brisk()}
}

func brisk() handlers.Backoff {
	return handlers.Backoff{Initial: 20 * time.Millisecond, Factor: 2, Maximum: 200 * time.Millisecond}
}

// Names of handlers, as they stand in the database.
const (
	nameNote     = "note"
	nameFlaky    = "flaky"
	nameDoomed   = "doomed"
	nameRefuser  = "refuser"
	nameEffect   = "effect"
	nameSlow     = "slow"
	namePanicky  = "panicky"
	nameKiller   = "killer"
	nameSnoozing = "snoozing"
	nameReceipt  = "receipt"
	nameLedger   = "ledger"
)

// duties lists every handler.
func duties() []duty {
	bounded := func(attempts, cycles int) handlers.Policy {
		return handlers.Policy{Attempts: attempts, Cycles: cycles, CycleInterval: 300 * time.Millisecond, Backoff: brisk()}
	}
	transactional := patient()
	transactional.Transactional = true
	succeeds := func(Script) (store.Status, store.Kind) { return store.Success, "" }
	failsIf := func(kind store.Kind, script func(Script) bool) func(Script) (store.Status, store.Kind) {
		return func(s Script) (store.Status, store.Kind) {
			if script(s) {
				return store.Failed, kind
			}
			return store.Success, ""
		}
	}
	refused := failsIf(store.KindPermanent, func(s Script) bool { return s.Refused })
	return []duty{
		{topicOrdered, nameNote, patient(), true, succeeds},
		{topicOrdered, nameFlaky, patient(), true, succeeds},
		{topicOrdered, nameDoomed, bounded(3, 2), true, failsIf(store.KindError, func(s Script) bool { return s.Doomed })},
		{topicOrdered, nameRefuser, patient(), true, refused},
		{topicOrdered, nameEffect, transactional, false, refused},
		{topicOrdered, nameSlow, patient(), true, succeeds},
		{topicOrdered, namePanicky, bounded(6, 1), true, failsIf(store.KindPanic, func(s Script) bool { return s.Panics == always })},
		{topicOrdered, nameKiller, patient(), true, succeeds},
		{topicOrdered, nameSnoozing, patient(), true, succeeds},
		{topicPaid, nameReceipt, patient(), true, succeeds},
		{topicPaid, nameLedger, transactional, false, succeeds},
	}
}

// worker does the duties in a bus.
type worker struct {
	bus   *bus.Bus
	notes notebook
}

func (w *worker) register() error {
	var all []cqrs.EventHandler
	for _, d := range duties() {
		if d.name == nameDoomed {
			d.policy.OnExhausted = func(ctx context.Context, run store.Run, _ error) error {
				return w.notes.write(ctx, noteExhausted, run)
			}
		}
		switch d.topic {
		case topicOrdered:
			all = append(all, handlers.New(d.name, work(w, d, w.ordered), d.policy))
		case topicPaid:
			all = append(all, handlers.New(d.name, work(w, d, w.paid), d.policy))
		}
	}
	return w.bus.Handle(all...)
}

// work notes the invocation before it does the duty.
func work[E any](w *worker, d duty, do func(ctx context.Context, d duty, run store.Run, e E) error) func(context.Context, E) error {
	return func(ctx context.Context, e E) error {
		delivery, ok := handlers.DeliveryFrom(ctx)
		if !ok {
			return errors.New("the handler's context carries no delivery")
		}
		if d.notes {
			if err := w.notes.write(ctx, noteBegun, delivery.Run()); err != nil {
				return err
			}
		}
		return do(ctx, d, delivery.Run(), e)
	}
}

func (w *worker) ordered(ctx context.Context, d duty, run store.Run, o Ordered) error {
	s := o.Script
	switch d.name {
	case nameFlaky:
		return failUpTo(s.Flaky, run)
	case nameDoomed:
		if s.Doomed {
			return fmt.Errorf("order %s is doomed, attempt %d", o.ID, run.Attempt)
		}
	case nameRefuser:
		if s.Refused {
			return handlers.Permanent(fmt.Errorf("order %s is refused", o.ID))
		}
	case nameEffect:
		return w.effect(ctx, run, o)
	case nameSlow:
		return sleep(ctx, s)
	case namePanicky:
		if run.Attempt <= s.Panics {
			panic(fmt.Sprintf("order %s panics, attempt %d", o.ID, run.Attempt))
		}
	case nameKiller:
		if s.Kills && run.Attempt == 1 {
			return killSelf()
		}
	case nameSnoozing:
		if run.Attempt <= s.Snoozes {
			return handlers.Snooze(50 * time.Millisecond)
		}
	}
	return nil
}

func (w *worker) paid(ctx context.Context, d duty, run store.Run, _ Paid) error {
	if d.name == nameLedger {
		return writeEffect(ctx, run)
	}
	return nil
}

// effect writes first and fails afterwards, so that a rollback has something
// to undo.
func (w *worker) effect(ctx context.Context, run store.Run, o Ordered) error {
	if err := writeEffect(ctx, run); err != nil {
		return err
	}
	if o.Script.Follow {
		tx, _ := handlers.Tx(ctx)
		if err := w.bus.PublishTx(ctx, tx, Paid{ID: o.ID}); err != nil {
			return err
		}
	}
	if o.Script.Refused {
		return handlers.Permanent(fmt.Errorf("order %s is refused after its effect", o.ID))
	}
	return failUpTo(o.Script.Undone, run)
}

func failUpTo(attempt int, run store.Run) error {
	if run.Attempt <= attempt {
		return fmt.Errorf("event %s fails on attempt %d of %d", run.EventID, run.Attempt, attempt)
	}
	return nil
}

func sleep(ctx context.Context, s Script) error {
	d := time.Duration(s.SlowMS) * time.Millisecond
	if s.Deaf {
		time.Sleep(d)
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// killSelf does not return on a system that kills.
func killSelf() error {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		return err
	}
	select {}
}
