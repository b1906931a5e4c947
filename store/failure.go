package store

import "github.com/reprise-bus/reprise/internal/sqldb"

const maxStack = 32 << 10 // bytes of a panic's stack that are kept

// Kind is the kind of a failure.
type Kind string

// The kinds of failure.
const (
	KindError       Kind = "error"       // the handler returned an error
	KindPermanent   Kind = "permanent"   // the handler declared that trying again is useless
	KindSkipCycle   Kind = "skip_cycle"  // the handler gave up this cycle
	KindTimeout     Kind = "timeout"     // the handler failed after its timeout
	KindPanic       Kind = "panic"       // the handler panicked
	KindUndecodable Kind = "undecodable" // the handler's marshaler cannot decode the payload
	KindAbandoned   Kind = "abandoned"   // the process died, or lost the run, while the handler ran
	KindInterrupted Kind = "interrupted" // the process shut down before the handler ended
	KindNack        Kind = "nack"        // the message was nacked without an error
	KindCallback    Kind = "callback"    // OnFailure or OnExhausted of the handler's policy failed, not the handler
	KindSnooze      Kind = "snooze"      // the handler snoozed more often than its policy allows
	KindLost        Kind = "lost"        // the event is no longer in the database, or its metadata is unreadable
)

// Failure is why an attempt failed.
type Failure struct {
	Kind        Kind
	Message     string
	Stack       string // of a panic
	Fingerprint string // see Fingerprint; "" for a failure outside of all fingerprints
}

// NewFailure returns a failure of a handler's run, with its fingerprint. The message is
// cut to 8 KiB, as the database keeps it.
func NewFailure(handler string, kind Kind, message string) *Failure {
	message = sqldb.Printable(message, sqldb.MaxMessage)
	return &Failure{Kind: kind, Message: message, Fingerprint: Fingerprint(handler, kind, message)}
}

// Printable returns the failure in the form that the database keeps.
func (f *Failure) Printable() *Failure {
	if f == nil {
		return nil
	}
	kept := *f
	kept.Message = sqldb.Printable(f.Message, sqldb.MaxMessage)
	kept.Stack = sqldb.Printable(f.Stack, maxStack)
	kept.Fingerprint = sqldb.Printable(f.Fingerprint, sqldb.MaxName)
	return &kept
}
