// Package schedule says when something that repeats is due: by a cron expression on the
// clocks of a time zone, or by an interval.
//
//	nightly := schedule.Cron("0 2 * * *", schedule.In("Europe/Berlin"))
//	often := schedule.Interval(90 * time.Minute)
//
// The times of a schedule are its ticks. The package computes ticks and nothing else: it
// starts no timer, reads no clock and writes no database. So all processes compute the
// same ticks.
//
// # Cron expressions
//
// An expression has five fields, or is one of the names below.
//
//	minute        0-59
//	hour          0-23
//	day of month  1-31, L for the last day
//	month         1-12, JAN-DEC
//	day of week   0-7 (0 and 7 are Sunday), SUN-SAT, FRI#2 for the second Friday of
//	              the month, FRIL for the last
//
//	@hourly    0 * * * *
//	@daily     0 0 * * *    also @midnight
//	@weekly    0 0 * * 0
//	@monthly   0 0 1 * *
//	@yearly    0 0 1 1 *    also @annually
//
// * means all values of a field. A value, a range (9-17) and a step (*/15, 9-17/2) may stand
// alone or in a list (1,15,20-25). Upper and lower case are equal.
//
// If day of month and day of week are both restricted, an expression matches the days
// that match either, as in crond: "0 0 13 * FRI" is due on each 13th and on each Friday.
// [Schedule.Warnings] reports it. If one of the two fields begins with *, an expression
// matches the days that match both: "0 0 */2 * WED" is due on Wednesdays with an odd date.
//
// There are no seconds, no years, no W (nearest weekday), no @reboot, no @every and no
// TZ= inside the expression. Use [Interval] for seconds and @every, and [In] for TZ=.
//
// # When the clocks change
//
// The rules are those of ISC cron. It knows two kinds of expressions. A wildcard
// expression has a minute or an hour field that begins with *, such as "*/15 * * * *",
// "0 * * * *" or "0 */2 * * *". It is due whenever a clock on the wall shows a matching
// time. All others are fixed, such as "30 2 * * *", and also "0,30 9-17 * * *" and
// "0-59/15 0-23 * * *". A fixed expression loses no tick and has none twice.
//
//	                               fixed                          wildcard
//	the clocks are set forward     ticks in the gap come at its   ticks in the gap do
//	                               end; several are one           not exist
//	the clocks are set back        ticks in the repeated time     they come both times
//	                               come the first time only
//	a change of more than 3 hours  as for a wildcard              as before
//	(a zone crosses the date line)
//
// In Berlin on 31 March 2024 the clocks go from 02:00 to 03:00, and on 27 October 2024
// from 03:00 back to 02:00:
//
//	                31 March                      27 October
//	30 2 * * *      03:00                         02:30, the first time
//	0,30 1-3 * * *  01:00 01:30 03:00 03:30       01:00 01:30 02:00 02:30 03:00 03:30
//	0 * * * *       00:00 01:00 03:00 …           00:00 01:00 02:00 02:00 03:00 …
//	*/15 2 * * *    none                          eight
//
// So write "0 * * * *" for what is to happen every hour: "0 0-23 * * *" is fixed, and
// silent for the repeated hour. On a day without midnight, "0 0 * * *" is due when the
// day begins, at 01:00.
//
// # Time zones
//
// The package embeds Go's copy of the time zone database (about 450 KB), for systems
// that have none; a database of the system comes first. When a government changes the
// rules, processes with an old and a new database differ until all have the new one.
package schedule
