package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// A result is what one system did at one work: the medians of all rounds.
type result struct {
	System string `json:"system"`
	Work   string `json:"work"`
	N      int    `json:"n"`
	figures

	work *work
}

// The system that the others are compared with.
const ours = "reprise"

// medians is the median of each figure by itself. A round without the figure is left out of it,
// unless no round has it.
func medians(rounds []figures) figures {
	of := func(value func(figures) float64) float64 {
		var vs []float64
		for _, f := range rounds {
			if v := value(f); v != 0 {
				vs = append(vs, v)
			}
		}
		return math.Round(median(vs)*1000) / 1000
	}
	m := figures{
		PerSec: of(func(f figures) float64 { return f.PerSec }),
		P50:    of(func(f figures) float64 { return f.P50 }),
		P99:    of(func(f figures) float64 { return f.P99 }),
		PeakMB: of(func(f figures) float64 { return f.PeakMB }),
	}
	for _, f := range rounds {
		for note := range strings.SplitSeq(f.Note, noteSeparator) {
			m.Note = join(m.Note, note)
		}
	}
	return m
}

const noteSeparator = "; "

// join adds a note to others, once.
func join(notes, note string) string {
	switch {
	case notes == "":
		return note
	case note == "" || slices.Contains(strings.Split(notes, noteSeparator), note):
		return notes
	}
	return notes + noteSeparator + note
}

// median of nothing is 0.
func median(vs []float64) float64 {
	if len(vs) == 0 {
		return 0
	}
	vs = slices.Sorted(slices.Values(vs))
	half := len(vs) / 2
	if len(vs)%2 == 1 {
		return vs[half]
	}
	return (vs[half-1] + vs[half]) / 2
}

// percentile is the smallest sample that at least q percent of all do not exceed.
func percentile[T cmp.Ordered](samples []T, q float64) T {
	sorted := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(q / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// writeJSON writes one line for each result.
func writeJSON(out io.Writer, rs []result) error {
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	for _, r := range rs {
		if err := lines.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// A row is a result made ready to be read.
type row struct {
	work, system, figure, p99, times, note string
	first                                  bool // of its work
}

func rows(rs []result) []row {
	var table []row
	for i, r := range rs {
		table = append(table, row{
			work: r.Work, system: r.System, figure: r.work.figure(r.figures), p99: number(r.P99),
			times: times(r, rs), note: r.Note,
			first: i == 0 || rs[i-1].Work != r.Work,
		})
	}
	return table
}

// times is how many times better reprise is at the work: faster, quicker, smaller, quieter.
func times(r result, rs []result) string {
	i := slices.IndexFunc(rs, func(o result) bool { return o.System == ours && o.Work == r.Work })
	if i < 0 || r.System == ours {
		return ""
	}
	m := measures[r.work.measure]
	a, b := m.value(rs[i].figures), m.value(r.figures)
	if m.less {
		a, b = b, a
	}
	if a == 0 || b == 0 {
		return ""
	}
	return strconv.FormatFloat(a/b, 'f', decimals(a/b), 64) + "×"
}

func writeTable(out io.Writer, rs []result) error {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "work\tsystem\tmeasured\tp99 ms\t%s is better by\tnote\n", ours)
	for _, r := range rows(rs) {
		if !r.first {
			r.work = ""
		}
		fmt.Fprintln(tw, strings.Join([]string{r.work, r.system, r.figure, r.p99, r.times, r.note}, "\t"))
	}
	tw.Flush()
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// figure is the value of a result at this work, with its unit.
func (w *work) figure(f figures) string {
	m := measures[w.measure]
	if m.value(f) == 0 {
		return "–"
	}
	s := number(m.value(f)) + " " + m.unit
	if w.measure == rate && f.P50 != 0 {
		s += ", " + number(f.P50) + " " + measures[latency].unit
	}
	return s
}

// describe is a line for the log.
func (w *work) describe(f figures) string {
	s := w.figure(f)
	if f.P99 != 0 {
		s += ", p99 " + number(f.P99)
	}
	if f.Note != "" {
		s += " (" + f.Note + ")"
	}
	return s
}

// number keeps three digits or all before the point, and 0 is nothing.
func number(v float64) string {
	if v == 0 {
		return ""
	}
	if v >= 1000 {
		return thousands(int(math.Round(v)))
	}
	return strconv.FormatFloat(v, 'f', decimals(v), 64)
}

func decimals(v float64) int {
	switch {
	case v >= 99.95:
		return 0
	case v >= 9.995:
		return 1
	}
	return 2
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
