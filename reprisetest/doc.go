// Package reprisetest is for the tests of applications. It runs their handlers in memory,
// as the bus would, and fails the test when a run would be FAILED.
//
//   - Replay runs a handler on an event that was exported from production.
//   - Run runs a handler by its whole policy, and returns the result.
//   - Concurrently runs a handler on many events at once, as the bus does.
//   - Bus replaces a *bus.Bus, and keeps what was published.
//
// No test waits for the clock: backoff, cycle intervals and snoozes pass at once, with
// their exact length and without jitter. A handler that waits for its Timeout does take
// that long, unless the test runs in testing/synctest. Except with Concurrently, handlers
// run in the calling goroutine, so they may use the test's t.
package reprisetest
