package nats

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Names of streams and consumers are valid, and those of different texts
// differ.
func TestNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, "send-welcome-email", named("send-welcome-email"))
	tricky := []string{"", "a.b", "a_b", "a b", named("a.b"), named(named("a.b")), strings.Repeat("a", 100), strings.Repeat("a", 101), strings.Repeat("a", 300), "ü", "ö", "*", ">"}
	text := rapid.OneOf(rapid.SampledFrom(tricky), rapid.String(), rapid.StringMatching(`[ab._-]{0,4}`))
	rapid.Check(t, func(t *rapid.T) {
		one, other := text.Draw(t, "one"), text.Draw(t, "other")
		require.Regexp(t, `^[A-Za-z0-9_-]{1,111}$`, named(one))
		require.Equal(t, one == other, named(one) == named(other))
	})
}
