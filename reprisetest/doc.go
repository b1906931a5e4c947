// Package reprisetest is for the tests of applications: it runs their handlers
// as the bus would, in memory, and fails the test when a run would be FAILED.
//
//   - Replay runs a handler on an event that was exported from production.
//   - Run runs a handler by its whole policy, and says how that went.
//   - Concurrently runs a handler on many events at once, as the bus does.
//   - Bus takes the place of a *bus.Bus, and keeps what was published.
//
// The clock is not waited for: backoff, the time between cycles and what a
// handler snoozes pass at once, to the nanosecond, without jitter. A handler
// that waits for its Timeout does take that long, unless the test runs in
// testing/synctest. But for those of Concurrently, the handlers run in the goroutine that
// asks for it, so they may use the test's t.
package reprisetest
