package store

import "github.com/reprise-bus/reprise/internal/sqldb"

const maxStack = 32 << 10 // bytes kept of a panic's stack

// Kind is the kind of a failure.
type Kind string

// The kinds of failure.
const (
	KindError       Kind = "error"       // the handler returned an error
	KindPermanent   Kind = "permanent"   // the handler said that trying again is of no use
	KindSkipCycle   Kind = "skip_cycle"  // the handler said that this cycle is of no use
	KindTimeout     Kind = "timeout"     // the handler failed after its time was over
	KindPanic       Kind = "panic"       // the handler panicked
	KindUndecodable Kind = "undecodable" // the payload is not what the handler takes
	KindAbandoned   Kind = "abandoned"   // the process died, or lost the run, while the handler ran
	KindInterrupted Kind = "interrupted" // the process shut down before the handler had ended
	KindNack        Kind = "nack"        // the message was nacked and nobody said why
	KindCallback    Kind = "callback"    // not the handler failed but its policy's OnFailure or OnExhausted
	KindSnooze      Kind = "snooze"      // the handler snoozed more often than its policy allows
	KindLost        Kind = "lost"        // the event is no longer in the database, or its metadata is unreadable
)

// Failure is why an attempt did not succeed.
type Failure struct {
	Kind        Kind
	Message     string
	Stack       string // of a panic
	Fingerprint string // see Fingerprint; "" for what no failure group is made of
}

// NewFailure returns a failure of a handler's run, with its fingerprint. Its message
// is as the database keeps it: cut after 8 KiB.
func NewFailure(handler string, kind Kind, message string) *Failure {
	message = sqldb.Printable(message, sqldb.MaxMessage)
	return &Failure{Kind: kind, Message: message, Fingerprint: Fingerprint(handler, kind, message)}
}

// Printable returns the failure as the database keeps it.
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
