package schedule_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/schedule"
)

// Each pair of expressions is due at the same times.
func TestExpressionsThatAreEqual(t *testing.T) {
	t.Parallel()
	from := time.Date(2023, 11, 1, 0, 0, 0, 0, time.UTC)
	for short, long := range map[string]string{
		"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *",
		"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@Daily": "0 0 * * *",
		"0 0 * * 7": "0 0 * * SUN", "0 0 * * 0": "0 0 * * sun", "0 0 * * 5-7": "0 0 * * FRI,SAT,SUN", "0 0 * * fri-Sun": "0 0 * * 0,5,6",
		"0 0 * * 5-0": "0 0 * * 5-7", "0 0 * * 0-7": "0 0 * * *", "0 0 * * MON-FRI/2": "0 0 * * 1,3,5", "0 0 * * */2": "0 0 * * */2,SUN",
		"0 0 1 JAN-mar *": "0 0 1 1,2,3 *", "0 0 1 */4 *": "0 0 1 1,5,9 *", "0 0 1 jan,12 *": "0 0 1 DEC,JAN *",
		"*/20 8-10/2 * * *": "0,20,40 8,10 * * *", "05 007 * * *": "5 7 * * *", "59-59 0 * * *": "59 0 * * *", "0,0 0 * * *": "0 0 * * *",
		"0 0 L 2 *": "0 0 L,l FEB *", "0 0 * * MON#1": "0 0 * * 1#1", "0 0 * * 7#2": "0 0 * * Sun#2", "0 0 * * 5L": "0 0 * * friL",
		"0 0 1,L * *": "0 0 L,1 * *", "0 0 * * MON#1,MON#3": "0 0 * * 1#3,1#1",
	} {
		want := collect(valid(t, schedule.Cron(long)), from, from.AddDate(1, 2, 0))
		require.NotEmpty(t, want)
		require.Equal(t, want, collect(valid(t, schedule.Cron(short)), from, from.AddDate(1, 2, 0)), short)
	}
}

// An error says what was given, what is allowed and what to write instead.
func TestExpressionsThatAreRefused(t *testing.T) {
	t.Parallel()
	const lists = ", * for all, lists (a,b), ranges (a-b) and steps (*/n, a-b/n)"
	for text, want := range map[string]string{
		"":                             `cron "" has 0 fields: want 5, minute, hour, day of month, month and day of week; there are no seconds (use schedule.Interval) and no years`,
		"* * * *":                      `cron "* * * *" has 4 fields: want 5`,
		"0 0 2 * * *":                  `has 6 fields: want 5, minute, hour, day of month, month and day of week; there are no seconds (use schedule.Interval) and no years`,
		"60 * * * *":                   `cron "60 * * * *" has minute "60": "60" is not allowed; allowed are 0 to 59` + lists,
		"0 24 * * *":                   `has hour "24": "24" is not allowed; allowed are 0 to 23` + lists,
		"0 0 0 * *":                    `has day of month "0": "0" is not allowed; allowed are 1 to 31, and L for the last day` + lists,
		"0 0 32 * *":                   `has day of month "32": "32" is not allowed`,
		"0 0 1 13 *":                   `has month "13": "13" is not allowed; allowed are 1 to 12, and JAN to DEC` + lists,
		"0 0 1 january *":              `has month "january": "january" is not allowed: names have three letters, such as JAN`,
		"0 0 * * 8":                    `has day of week "8": "8" is not allowed; allowed are 0 to 7 (0 and 7 are Sunday), SUN to SAT, FRI#2 for the second Friday of the month, and FRIL for the last` + lists,
		"0 0 * * Friday":               `names have three letters, such as SUN`,
		"0 22-2 * * *":                 `the range "22-2" ends before it begins: write 22-23,0-2`,
		"0 0 * nov-feb *":              `the range "nov-feb" ends before it begins: write nov-12,1-feb`,
		"5/15 * * * *":                 `the step "5/15" has no range: write 5-59/15`,
		"*/0 * * * *":                  `the step of "*/0" is not one of 1 to 59`,
		"*/60 * * * *":                 `the step of "*/60" is not one of 1 to 59`,
		"*/-5 * * * *":                 `the step of "*/-5" is not one of 1 to 59`,
		"*/ * * * *":                   `the step of "*/" is not one of 1 to 59`,
		"0,,5 * * * *":                 `has minute "0,,5": a value is missing`,
		"0- * * * *":                   `has minute "0-": a value is missing`,
		"-5 * * * *":                   `has minute "-5": a value is missing`,
		"*-5 * * * *":                  `has minute "*-5": "*" is not allowed`,
		"+5 * * * *":                   `has minute "+5": "+5" is not allowed`,
		"٣ * * * *":                    `has minute "٣": "٣" is not allowed`,
		"99999999999999999999 * * * *": `"99999999999999999999" is not allowed`,
		"0 0 ? * MON":                  `has day of month "?": write * instead of ?`,
		"0 0 15W * *":                  `"15W" is not allowed: there is no W, the nearest weekday`,
		"0 0 LW * *":                   `"LW" is not allowed: there is no W, the nearest weekday`,
		"0 0 L-3 * *":                  `"L" is not allowed: L stands alone or in a list, such as 15,L`,
		"0 0 * * L":                    `write SAT for each Saturday, or SATL for the last of the month`,
		"0 0 * * FRI#6":                `"FRI#6" is not allowed: a day with # stands alone or in a list, and is its first to fifth, such as MON#1,MON#3`,
		"0 0 * * FRI#":                 `"FRI#" is not allowed: a day with #`,
		"0 0 * * 1-5#2":                `"5#2" is not allowed: a day with #`,
		"0 0 * * 8L":                   `has day of week "8L": "8L" is not allowed`,
		"L * * * *":                    `has minute "L": "L" is not allowed`,
		"H * * * *":                    `has minute "H": "H" is not allowed`,
		"@every 90m":                   `cron "@every 90m" is an interval: use schedule.Interval, such as schedule.Interval(90*time.Minute)`,
		"@reboot":                      `cron "@reboot" is no time: publish where the application starts`,
		"@fortnightly":                 `cron "@fortnightly" is not a known name: want @hourly, @daily, @midnight, @weekly, @monthly, @yearly or @annually alone, or five fields`,
		"@daily 5":                     `cron "@daily 5" is not a known name`,
		"TZ=UTC":                       `cron "TZ=UTC" has a zone inside: leave it out, and pass schedule.In("UTC")`,
		"CRON_TZ=Asia/Tokyo 0 2 * * *": `has a zone inside: leave it out, and pass schedule.In("Asia/Tokyo")`,
		"0 0 30 2 *":                   `cron "0 0 30 2 *" is never due: no year has day of month "30" in month "2"`,
		"0 0 31 4,6,9,11 *":            `is never due: no year has day of month "31" in month "4,6,9,11"`,
		"0 0 */31 2 MON#2":             `is never due: no year has day of month "*/31" in month "2" that is day of week "MON#2"`,
		strings.Repeat("*", 1001):      `has 1001 bytes: want at most 1000`,
	} {
		err := schedule.Cron(text).Validate()
		require.ErrorContains(t, err, want)
		require.Less(t, len(err.Error()), 500)
	}
}

func TestAZoneThatIsNotThereIsAnError(t *testing.T) {
	t.Parallel()
	require.EqualError(t, schedule.Cron("0 2 * * *", schedule.In("Europe/Berln")).Validate(),
		`cron "0 2 * * *": zone "Europe/Berln" is not in the time zone database: want a name such as Europe/Berlin or UTC`)
	require.EqualError(t, schedule.Cron("0 2 * * *", schedule.In("Local")).Validate(),
		`cron "0 2 * * *": zone "Local" is not the same on every machine: want a name, such as Europe/Berlin or UTC`)
	for _, name := range []string{"+02:00", "../etc/passwd", "/etc/localtime", "\x00", strings.Repeat("x", 10_000)} {
		err := schedule.Cron("0 2 * * *", schedule.In(name)).Validate()
		require.Error(t, err)
		require.Less(t, len(err.Error()), 1000)
	}
	require.Equal(t, schedule.Cron("0 2 * * *"), schedule.Cron("0 2 * * *", schedule.In("")))
}

func TestAWarningForDaysThatMatchEither(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{`day of month "13" and day of week "FRI": the schedule is due on the days that match either of them. ` +
		`For the first Monday of a month write * and MON#1. For other days that match both, write * for one of them, and test it where the event is handled.`},
		schedule.Cron("0 0 13 * FRI").Warnings())
	require.Len(t, schedule.Cron("0 0 1-31 * 0-7").Warnings(), 1)
	require.Len(t, schedule.Cron("0 0 5,* * 5,*").Warnings(), 1, "only a * at the beginning counts")
	for _, text := range []string{"0 0 13 * *", "0 0 * * FRI", "0 0 */2 * FRI", "0 0 13 * */2", "@weekly", "@monthly"} {
		require.Empty(t, valid(t, schedule.Cron(text)).Warnings())
	}
	require.Empty(t, schedule.Interval(time.Hour).Warnings())
}
