package reprisetest_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// spy is a test that may fail, and is asked why.
type spy struct {
	testing.TB
	failures []string
	cleanups []func()
}

func (s *spy) Helper()          {}
func (s *spy) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }
func (s *spy) FailNow()         { runtime.Goexit() }

func (s *spy) Errorf(format string, args ...any) {
	s.failures = append(s.failures, fmt.Sprintf(format, args...))
}

func (s *spy) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	s.FailNow()
}

// failures runs a test to its end, and returns what it fails by.
func failures(t *testing.T, test func(t testing.TB)) string {
	t.Helper()
	s := &spy{TB: t}
	over := make(chan struct{})
	go func() {
		defer close(over)
		test(s)
	}()
	<-over
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
	return strings.Join(s.failures, "\n")
}
