package schedule_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/reprise-bus/reprise/schedule"
)

// FuzzParse holds that no text makes Cron panic, that a valid schedule is made again from
// its parts and from what it prints, and that an invalid one says what it was given.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"* * * * *", "*/15 9-17 1,15,L JAN-mar/2 MON-FRI", "0 0 * * FRI#2,SUNL", "@daily", "@every 1h", "TZ=UTC", "TZ=UTC 0 0 * * *", "0 0 30 2 *",
		"0 0 29 2 */7", "5-0 * * * *", "0 0 * * 5-0", "0 0 ? * L", "0 0 LW * *", "*,* * * * *", "-/ , # L *", "0\u00a00 * * *", "\xff * * * *", "99999999999999999999 * * * *",
	} {
		f.Add(text, "Europe/Berlin", int64(1_700_000_000))
	}
	f.Fuzz(func(t *testing.T, text, zone string, after int64) {
		s := schedule.Cron(text, schedule.In(zone))
		next, ok := s.Next(time.Unix(after, 0))
		if err := s.Validate(); err != nil {
			require.False(t, ok)
			require.Less(t, len(err.Error()), 2000)
			require.True(t, strings.HasPrefix(err.Error(), "cron "))
			return
		}
		require.True(t, !ok || next.After(time.Unix(after, 0)))
		again := s.Parts().Schedule()
		require.Equal(t, s, again)
		require.Equal(t, s.String(), again.String())
		_, printed, _ := strings.Cut(s.String(), `"`)
		printed, zone, _ = strings.Cut(printed, `" in `)
		require.Equal(t, s, schedule.Cron(printed, schedule.In(zone)))
	})
}

// FuzzNext compares the ticks with those of a crond that looks at its clock every minute.
func FuzzNext(f *testing.F) { f.Fuzz(rapid.MakeFuzz(likeCrond)) }

func TestTicksAreThoseOfCrond(t *testing.T) {
	t.Parallel()
	rapid.Check(t, likeCrond)
}
