package cli

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/words"
)

var noon = time.Date(2026, 7, 2, 12, 0, 0, 0, time.FixedZone("CEST", 2*60*60))

func TestWhen(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"2026-07-01T10:00:00Z":      "2026-07-01T10:00:00Z",
		"2026-07-01T10:00:00+02:00": "2026-07-01T08:00:00Z",
		"2026-07-01T10:00:00.25Z":   "2026-07-01T10:00:00.25Z",
		"2026-07-01":                "2026-06-30T22:00:00Z",
		"2026-07-01 14:05":          "2026-07-01T12:05:00Z",
		"2026-07-01 14:05:09":       "2026-07-01T12:05:09Z",
		"2026-07-01T14:05":          "2026-07-01T12:05:00Z",
		"14:05":                     "2026-07-02T12:05:00Z",
		"14:05:09":                  "2026-07-02T12:05:09Z",
		"2h":                        "2026-07-02T08:00:00Z",
		"3d":                        "2026-06-29T10:00:00Z",
		"1w":                        "2026-06-25T10:00:00Z",
		"1w1d1h30m":                 "2026-06-24T08:30:00Z",
		"90s":                       "2026-07-02T09:58:30Z",
	} {
		got, err := parseWhen(text, noon)
		require.NoError(t, err, text)
		require.Equal(t, want, got.UTC().Format(time.RFC3339Nano), text)
	}
	for _, text := range []string{"", "yesterday", "-2h", "2026-13-01", "25:00", "3", "d", "+1d", "1d-1h", "999999999w", "2026-07-01 ", "1h1d"} {
		_, err := parseWhen(text, noon)
		require.ErrorContains(t, err, "want 2026-07-01", text)
	}
}

func FuzzWhen(f *testing.F) {
	for _, text := range []string{"2h", "3d", "1w2d3h", "14:05", "2026-07-01", "2026-07-01 14:05:09", "2026-07-01T10:00:00+02:00", "999999999d", "-1h"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := parseWhen(text, noon)
		if err != nil {
			require.True(t, at.IsZero())
			return
		}
		if age, err := parseAge(text); err == nil {
			require.GreaterOrEqual(t, age, time.Duration(0))
			require.False(t, at.After(noon))
		}
		again, err := parseWhen(at.Format(time.RFC3339Nano), noon)
		if at.Year() >= 0 && at.Year() <= 9999 {
			require.NoError(t, err)
			require.True(t, at.Equal(again))
		}
	})
}

func TestRate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{"50/s": 50, "50": 50, "600/m": 10, "1800/h": 0.5, "0.5": 0.5} {
		got, err := parseRate(text)
		require.NoError(t, err)
		require.InDelta(t, want, float64(got), 1e-9)
	}
	for _, text := range []string{"", "0", "-1", "50/d", "fast", "50 /s", "1e9", "NaN", "Inf", "50/s/s", "0/s"} {
		_, err := parseRate(text)
		require.ErrorContains(t, err, "want runs per second, minute or hour", text)
	}
	for perSecond, want := range map[float64]string{0: "all at once", 50: "50/s", 0.5: "30/m", 1.0 / 3600: "1/h"} {
		require.Equal(t, want, rateText(perSecond))
	}
}

func FuzzRate(f *testing.F) {
	for _, text := range []string{"50/s", "0.5/m", "1000/h", "0", "999999999.999999999", "/s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRate(text)
		if err != nil {
			require.Zero(t, r)
			return
		}
		require.Positive(t, float64(r))
		require.LessOrEqual(t, float64(r), 1e9)
		if float64(r) >= 1.0/3600 {
			again, err := parseRate(r.String())
			if err == nil { // of more digits than are printed, not the same
				require.InEpsilon(t, float64(r), float64(again), 0.001)
			}
		}
	})
}

func TestSpansForPeople(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 30 * time.Minute: "30m", 90 * time.Minute: "1h30m",
		30 * time.Hour: "30h", 72 * time.Hour: "3d",
	} {
		require.Equal(t, want, words.Ago(d))
	}
	require.Equal(t, "1h", shortDuration("1h0m0s"))
	require.Equal(t, "10m", shortDuration("10m0s"))
	require.Equal(t, "never", shortDuration("never"))
	require.Equal(t, "1,234,567", words.Thousands(1234567))
	require.Equal(t, "-100", words.Thousands(-100))
	require.Equal(t, "1 run", words.Several(1, "run"))
}
