package outage_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/outage"
)

func TestAnOutageIsLoggedWhenItBeginsAndWhenItIsOver(t *testing.T) {
	var log bytes.Buffer
	o := outage.Outage{What: "reaching the moon", Log: slog.New(slog.NewTextHandler(&log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	for _, err := range []error{nil, errors.New("no fuel"), errors.New("no fuel"), nil, nil, errors.New("no crew")} {
		o.Report(ctx, err)
	}
	cancel()
	o.Report(ctx, nil)
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	require.Len(t, lines, 3)
	require.Contains(t, lines[0], `level=WARN msg="reaching the moon fails; trying again until it works" error="no fuel"`)
	require.Contains(t, lines[1], `level=INFO msg="reaching the moon works again" after=`)
	require.Contains(t, lines[2], "no crew")
}

func TestThePaceGrowsToTheLongest(t *testing.T) {
	for _, longest := range []time.Duration{10 * time.Millisecond, 2 * time.Second} {
		pace := outage.Pace(longest)
		for range 30 {
			wait := pace.NextBackOff()
			require.NotEqual(t, backoff.Stop, wait)
			require.Positive(t, wait)
			require.LessOrEqual(t, wait, longest+longest/2)
		}
		require.GreaterOrEqual(t, pace.NextBackOff(), longest/2)
	}
}

func TestWhatPassesIsTriedUntilItWorks(t *testing.T) {
	passing, lasting := errors.New("passing"), errors.New("lasting")
	passes := func(err error) bool { return errors.Is(err, passing) }
	o := outage.Outage{What: "it", Log: slog.New(slog.DiscardHandler)}
	tries := 0
	require.NoError(t, o.Until(t.Context(), time.Millisecond, passes, func() error {
		if tries++; tries < 3 {
			return passing
		}
		return nil
	}))
	require.Equal(t, 3, tries)
	require.Equal(t, lasting, o.Until(t.Context(), time.Millisecond, passes, func() error { return lasting }))
	ctx, cancel := context.WithCancel(t.Context())
	err := o.Until(ctx, time.Hour, passes, func() error {
		cancel()
		return passing
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, passing)
}
