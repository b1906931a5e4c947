package schedule_test

import (
	"fmt"
	"time"

	"github.com/reprise-bus/reprise/schedule"
)

// A report at half past two, on the night in which Berlin's clocks leave that time out.
func ExampleCron() {
	nightly := schedule.Cron("30 2 * * *", schedule.In("Europe/Berlin"))
	fmt.Println(nightly, nightly.Validate())

	now := time.Date(2024, time.March, 29, 12, 0, 0, 0, time.UTC)
	for range 3 {
		tick, _ := nightly.Next(now)
		fmt.Println(tick)
		now = tick
	}
	// Output:
	// cron "30 2 * * *" in Europe/Berlin <nil>
	// 2024-03-30 02:30:00 +0100 CET
	// 2024-03-31 03:00:00 +0200 CEST
	// 2024-04-01 02:30:00 +0200 CEST
}

func ExampleCron_mistakes() {
	for _, s := range []schedule.Schedule{
		schedule.Cron("0 22-2 * * *"),
		schedule.Cron("0 0 30 2 *"),
		schedule.Cron("@every 90m"),
		schedule.Cron("0 2 * * *", schedule.In("Europe/Berln")),
	} {
		fmt.Println(s.Validate())
	}
	// Output:
	// cron "0 22-2 * * *" has hour "22-2": the range "22-2" ends before it begins: write 22-23,0-2; allowed are 0 to 23, * for all, lists (a,b), ranges (a-b) and steps (*/n, a-b/n)
	// cron "0 0 30 2 *" is never due: no year has day of month "30" in month "2"
	// cron "@every 90m" is an interval: use schedule.Interval, such as schedule.Interval(90*time.Minute)
	// cron "0 2 * * *": zone "Europe/Berln" is not in the time zone database: want a name such as Europe/Berlin or UTC
}

func ExampleInterval() {
	often := schedule.Interval(90*time.Minute, schedule.From(time.Date(2026, time.March, 1, 8, 15, 0, 0, time.UTC)))
	tick, _ := often.Next(time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC))
	fmt.Println(often)
	fmt.Println(tick)
	// Output:
	// every 1h30m0s from 2026-03-01T08:15:00Z
	// 2026-03-01 12:45:00 +0000 UTC
}

func ExampleSchedule_Between() {
	payday := schedule.Cron("0 9 L * *", schedule.In("Asia/Tokyo"))
	from := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	for tick := range payday.Between(from, from.AddDate(0, 4, 0)) {
		fmt.Println(tick)
	}
	// Output:
	// 2026-01-31 09:00:00 +0900 JST
	// 2026-02-28 09:00:00 +0900 JST
	// 2026-03-31 09:00:00 +0900 JST
	// 2026-04-30 09:00:00 +0900 JST
}

func ExampleSchedule_Warnings() {
	for _, warning := range schedule.Cron("0 9 1-7 * MON").Warnings() {
		fmt.Println(warning)
	}
	// Output:
	// day of month "1-7" and day of week "MON": the schedule is due on the days that match either of them. For the first Monday of a month write * and MON#1. For other days that match both, write * for one of them, and test it where the event is handled.
}

// Nothing ran from one o'clock to half past four.
func ExampleSchedule_Decide() {
	hourly := schedule.Cron("@hourly")
	next := time.Date(2026, time.March, 1, 1, 0, 0, 0, time.UTC)
	now := time.Date(2026, time.March, 1, 4, 30, 0, 0, time.UTC)
	for _, policy := range []schedule.Missed{schedule.Latest, schedule.All, schedule.Skip} {
		d := hourly.Decide(next, now, policy, 0)
		fmt.Print(policy, ":")
		for _, tick := range d.Ticks {
			fmt.Print(" ", tick.Format("15:04"))
		}
		fmt.Println("; missed", d.Missed, "next", d.Next.Format("15:04"))
	}
	// Output:
	// latest: 04:00; missed 3 next 05:00
	// all: 01:00 02:00 03:00 04:00; missed 0 next 05:00
	// skip:; missed 4 next 05:00
}

func ExampleSchedule_Parts() {
	stored := schedule.Cron("0 2 * * *", schedule.In("Europe/Berlin")).Parts()
	fmt.Println(stored.Cron, stored.Zone)
	fmt.Println(stored.Schedule())
	// Output:
	// 0 2 * * * Europe/Berlin
	// cron "0 2 * * *" in Europe/Berlin
}
