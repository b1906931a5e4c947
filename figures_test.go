package reprise_test

import (
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The figures of README.md and bench/ANALYSIS.md are those that bench/ measured. Each
// sentence with figures stands here as it is written there, with the measured
// value in place of each figure: (( file work system column )), or a quotient of
// two of them. Written is the measured value, rounded to the digits that are
// written, less the zeros at the end of a whole number: 51,979 is 52,000.
var figures = map[string][]string{
	"README.md": {
		`52,000 events a second published and handled|((RESULTS sustained reprise))`,
		`(River 23,300, Graphile Worker 33,100, stock watermill-sql 12,600), 32,800 a second|((RESULTS sustained river)) ((RESULTS sustained graphile)) ((RESULTS sustained watermill)) ((RESULTS publish-16 reprise))`,
		`by 16 callers one at a time (7,800, 2,600, 18,400)|16 ((RESULTS publish-16 river)) ((RESULTS publish-16 graphile)) ((RESULTS publish-16 watermill))`,
		`0.9 ms at the median|((RESULTS latency reprise))`,
		`(2.3 ms at best among the others)|((RESULTS latency graphile))`,
		`(60,700 a second beside them, 60,100 without)|((RESULTS-large history-10000000 reprise)) ((RESULTS-large history-0 reprise))`,
		`draining a million takes 37 MiB|((RESULTS-large memory reprise))`,
		`Over Kafka, 34,700 events a second|((RESULTS-kafka kafka reprise))`,
		`(a handler that records itself, 5,700; a bare Watermill router that records nothing, 92,200; where handlers take 10 ms, 980, and Reprise 1,290 with its 16 slots and 5,900 with 100)|((RESULTS-kafka kafka naive)) ((RESULTS-kafka kafka watermill-kafka)) 10 ((RESULTS-kafka kafka-slow-16 watermill-kafka)) ((RESULTS-kafka kafka-slow-16 reprise)) 16 ((RESULTS-kafka kafka-slow reprise)) 100`,
		`answers within 50 ms (p95)|≥((OPERATOR questions p95)) 95`,
		`a replay of 100,000 chosen ones is requested in 5 s|((OPERATOR request runs)) ((OPERATOR request seconds))`,
	},
	"bench/ANALYSIS.md": {
		`| sustained | 52,000/s: 2.2 × River, 1.6 × Graphile Worker, 4.1 × stock watermill-sql, 0.82 of the floor (63,100/s) ||((RESULTS sustained reprise)) ((RESULTS sustained reprise / RESULTS sustained river)) ((RESULTS sustained reprise / RESULTS sustained graphile)) ((RESULTS sustained reprise / RESULTS sustained watermill)) ((RESULTS sustained reprise / RESULTS floor reprise)) ((RESULTS floor reprise))`,
		`| drain | 58,400/s: 2.3 × River, 1.46 × Graphile Worker, 2.2 × stock watermill-sql, 16.5 × naive ||((RESULTS drain reprise)) ((RESULTS drain reprise / RESULTS drain river)) ((RESULTS drain reprise / RESULTS drain graphile)) ((RESULTS drain reprise / RESULTS drain watermill)) ((RESULTS drain reprise / RESULTS drain naive))`,
		`| publish-16 | 32,800/s: 4.2 × River, 1.8 × stock watermill-sql ||16 ((RESULTS publish-16 reprise)) ((RESULTS publish-16 reprise / RESULTS publish-16 river)) ((RESULTS publish-16 reprise / RESULTS publish-16 watermill))`,
		`| latency | p50 0.9 ms, 1/40 of River's, 1/2.5 of Graphile Worker's; p99 1.6 ms ||50 ((RESULTS latency reprise)) 1 ((RESULTS latency river / RESULTS latency reprise)) 1 ((RESULTS latency graphile / RESULTS latency reprise)) 99 ((RESULTS latency reprise p99))`,
		`| latency-cross | p50 1.5 ms ||50 ((RESULTS latency-cross reprise))`,
		`| slow | 8,300/s ||((RESULTS slow reprise))`,
		`| history | over 10 million runs 60,700/s, 1.01 of over none ||10 ((RESULTS-large history-10000000 reprise)) ((RESULTS-large history-10000000 reprise / RESULTS-large history-0 reprise))`,
		`| memory | 37 MiB for a million due runs ||((RESULTS-large memory reprise))`,
		`| idle | 1.5 statements/s ||((RESULTS idle reprise))`,
		`beside Graphile Worker (1.46 × instead of 1.5)|((RESULTS drain reprise / RESULTS drain graphile)) 1.5`,
		`publish-1 went from 4,700 to 7,700/s, latency from 1.33 to 0.90 ms|1 4700 ((RESULTS publish-1 reprise)) 1.33 ((RESULTS latency reprise))`,
		`on one node with 12 partitions|12`,
		`| kafka | 34,700 events/s recorded and handled, 6.1 × naive ||((RESULTS-kafka kafka reprise)) ((RESULTS-kafka kafka reprise / RESULTS-kafka kafka naive))`,
		`| kafka-slow-16 | handlers of 10 ms, the default of 16 slots: 1,290/s, beside 984/s of a bare watermill-kafka router ||16 10 16 ((RESULTS-kafka kafka-slow-16 reprise)) ((RESULTS-kafka kafka-slow-16 watermill-kafka))`,
		`| kafka-slow | handlers of 10 ms, 100 slots: 5,900/s ||10 100 ((RESULTS-kafka kafka-slow reprise))`,
		`| outbox-down | while the broker is down 23,100/s published by 16 callers, p50 0.61 ms, beside 18,300/s and 0.80 ms in the database alone ||((RESULTS-kafka outbox-down reprise)) 16 50 ((RESULTS-kafka outbox-down reprise p50)) ((RESULTS-kafka outbox-down reprise-database)) ((RESULTS-kafka outbox-down reprise-database p50))`,
		`| questions | every list and count within 45 ms at p95 ||≥((OPERATOR questions p95)) 95`,
		`| request | a replay of 104,000 runs, a third of what failed, chosen by the text of their errors: requested in 4.7 s ||((OPERATOR request runs)) ((OPERATOR request seconds))`,
		`| publish-to-handler meanwhile | from 0.6 to 0.9 ms at the median, from 1.5 to 30 ms at p99 ||((OPERATOR before p50)) ((OPERATOR during p50)) ((OPERATOR before p99)) ((OPERATOR during p99)) 99`,
	},
}

// Where all figures have to be in the table above: from one text to another.
var onlyFigures = map[string][2]string{
	"README.md":         {"On two cores shared with Postgres", "and while the broker is down"},
	"bench/ANALYSIS.md": {"| sustained |", "## Where the time goes"},
}

func TestTheFiguresAreThoseThatWereMeasured(t *testing.T) {
	t.Parallel()
	results := measurements(t)
	for file, claims := range figures {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(text), onlyFigures[file][0])
		_, rest, _ := strings.Cut(string(text), onlyFigures[file][0])
		part, _, ends := strings.Cut(rest, onlyFigures[file][1])
		require.True(t, ends, "%s: %q", file, onlyFigures[file][1])
		part = aim.ReplaceAllString(onlyFigures[file][0]+part, "|")
		for _, claim := range claims {
			cut := strings.LastIndex(claim, "|")
			written, measured := claim[:cut], claim[cut+1:]
			require.Contains(t, string(text), written, "%s no longer says so: keep figures_test.go in step", file)
			part = strings.ReplaceAll(part, written, "")
			numbers, sources := number.FindAllString(written, -1), source.FindAllString(measured, -1)
			require.Len(t, sources, len(numbers), "%s: %s", file, claim)
			for i, n := range numbers {
				want, atMost := valueOf(t, results, sources[i])
				if atMost {
					require.LessOrEqual(t, want, parse(t, n), "%s: %s: %s", file, written, sources[i])
					require.Less(t, parse(t, n), 1.25*want, "%s: %s: %s could be less", file, written, sources[i])
					continue
				}
				require.Equal(t, parse(t, n), rounded(want, n), "%s says %q, and measured is %v (%s)", file, written, want, sources[i])
			}
		}
		require.Empty(t, number.FindAllString(strings.ReplaceAll(part, "p95", ""), -1), "%s: these figures are not in figures_test.go: %s", file, part)
	}
}

var (
	number = regexp.MustCompile(`\d[\d,]*\d(?:\.\d+)?|\d(?:\.\d+)?`)
	aim    = regexp.MustCompile(`(?m)\|[^|\n]*\|$`) // the last column of ANALYSIS's tables is an aim
	source = regexp.MustCompile(`≥?\(\([^)]*\)\)|[\d.]+`)
)

// valueOf is what a source of the table stands for.
func valueOf(t *testing.T, results map[string]float64, source string) (value float64, atMost bool) {
	t.Helper()
	source, atMost = strings.CutPrefix(source, "≥")
	source, measured := strings.CutPrefix(source, "((")
	if !measured {
		return parse(t, source), false
	}
	above, below, isQuotient := strings.Cut(strings.TrimSuffix(source, "))"), " / ")
	look := func(name string) float64 {
		v, found := results[name]
		require.True(t, found, "%q was not measured; there are %q", name, slices.Sorted(maps.Keys(results)))
		return v
	}
	value = look(above)
	if isQuotient {
		value /= look(below)
	}
	return value, atMost
}

func parse(t *testing.T, written string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(strings.ReplaceAll(written, ",", ""), 64)
	require.NoError(t, err)
	return v
}

// rounded is a value with the digits that a figure is written with.
func rounded(value float64, written string) float64 {
	written = strings.ReplaceAll(written, ",", "")
	_, decimals, isFraction := strings.Cut(written, ".")
	places := len(decimals)
	if !isFraction {
		places = len(strings.TrimRight(written, "0")) - len(written)
	}
	v, _ := strconv.ParseFloat(strconv.FormatFloat(math.Round(value*math.Pow10(places))/math.Pow10(places), 'f', max(places, 0), 64), 64)
	return v
}

// measurements are the tables of bench/*.md: "FILE WORK SYSTEM", with " p50" or
// " p99" for times beside a rate, and what OPERATOR.md says.
func measurements(t *testing.T) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	row := regexp.MustCompile(`(?m)^\| ([\w-]*) \| [\d,]* \| ([\w-]+) \| ([\d.,]+) (?:per second|MiB|ms \(p50\))(?:, ([\d.]+) ms \(p50\))? \| ([\d.]*) \|`)
	for _, name := range []string{"RESULTS", "RESULTS-large", "RESULTS-kafka"} {
		text, err := os.ReadFile(filepath.Join("bench", name+".md"))
		require.NoError(t, err)
		_, table, _ := strings.Cut(string(text), "## Figures")
		work := ""
		for _, cells := range row.FindAllStringSubmatch(table, -1) {
			if cells[1] != "" {
				work = cells[1]
			}
			key := name + " " + work + " " + cells[2]
			all[key] = parse(t, cells[3])
			if cells[4] != "" {
				all[key+" p50"] = parse(t, cells[4])
			}
			if cells[5] != "" {
				all[key+" p99"] = parse(t, cells[5])
			}
		}
	}
	text, err := os.ReadFile(filepath.Join("bench", "OPERATOR.md"))
	require.NoError(t, err)
	for _, question := range regexp.MustCompile(`(?m)^ +\S.*  +\d+\+? +([\d.]+) +([\d.]+) +([\d.]+)$`).FindAllStringSubmatch(string(text), -1) {
		all["OPERATOR questions p95"] = max(all["OPERATOR questions p95"], parse(t, question[2]))
	}
	request := regexp.MustCompile(`request of that replay: (\d+) runs in ([\d.]+)s`).FindStringSubmatch(string(text))
	require.NotNil(t, request)
	all["OPERATOR request runs"], all["OPERATOR request seconds"] = parse(t, request[1]), parse(t, request[2])
	for _, times := range regexp.MustCompile(`from publish to handler, (before|during) it: p50 (\S+), p99 (\S+), `).FindAllStringSubmatch(string(text), -1) {
		for i, p := range []string{"p50", "p99"} {
			d, err := time.ParseDuration(times[2+i])
			require.NoError(t, err)
			all["OPERATOR "+times[1]+" "+p] = float64(d) / float64(time.Millisecond)
		}
	}
	return all
}

// The modules beside this one are distributed apart from it.
func TestEveryModuleHasTheLicense(t *testing.T) {
	t.Parallel()
	license, err := os.ReadFile("LICENSE")
	require.NoError(t, err)
	require.Contains(t, string(license), "MIT License")
	modules, err := filepath.Glob("*/go.mod")
	require.NoError(t, err)
	require.NotEmpty(t, modules)
	for _, module := range modules {
		same, err := os.ReadFile(filepath.Join(filepath.Dir(module), "LICENSE"))
		require.NoError(t, err)
		require.Equal(t, string(license), string(same), module)
	}
}
