//go:build stress

package pubsub_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
)

// Several of Watermill's suites at once, with everything that they publish;
// STRESS_TEST_COUNT says how many.
func TestWatermillConformanceStress(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		features, one, group := conformance(testkit.OpenStore(t, url))
		tests.TestPubSubStressTest(t, features, one, group)
	})
}
