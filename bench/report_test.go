package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.of); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.of, got, c.want)
		}
	}
	in := []float64{3, 1, 2}
	median(in)
	if !slices.Equal(in, []float64{3, 1, 2}) {
		t.Errorf("median has reordered its argument: %v", in)
	}
}

func TestPercentileIsTheNearestRank(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = 100 - i
	}
	for _, c := range []struct {
		of   []int
		q    float64
		want int
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{hundred, 0, 1},
		{[]int{3, 1}, 50, 1},
		{[]int{3, 1}, 99, 3},
		{[]int{8}, 99, 8},
	} {
		if got := percentile(c.of, c.q); got != c.want {
			t.Errorf("percentile(%v) of %d samples = %d, want %d", c.q, len(c.of), got, c.want)
		}
	}
}

func TestMediansAreOfEachFigureByItself(t *testing.T) {
	got := medians([]figures{
		{P50: 1, P99: 30, Note: "a"},
		{P50: 3, P99: 10, Note: "a; b"},
		{P50: 2, P99: 20},
		{Note: "failed: c"}, // has no figures
	})
	if want := (figures{P50: 2, P99: 20, Note: "a; b; failed: c"}); got != want {
		t.Errorf("medians = %+v, want %+v", got, want)
	}
}

func workNamed(t *testing.T, name string) *work {
	t.Helper()
	if !slices.Contains(workNames(), name) {
		t.Fatalf("no work is named %q", name)
	}
	return worksNamed(name, []int{1_000_000})[0]
}

func someResults(t *testing.T) []result {
	r := func(system, work string, n int, f figures) result {
		w := workNamed(t, work)
		return result{System: system, Work: w.name, N: n, figures: f, work: w}
	}
	return []result{
		r("reprise", "drain", 20_000, figures{PerSec: 30_000}),
		r("river", "drain", 20_000, figures{PerSec: 12_000}),
		r("graphile", "drain", 20_000, figures{Note: `not offered: <node> & "npm" are not installed`}),
		r("reprise", "latency", 200, figures{P50: 0.5, P99: 2}),
		r("river", "latency", 200, figures{P50: 40, P99: 100.4}),
		r("reprise", "history", 20_000, figures{PerSec: 29_000}),
	}
}

func TestJSONIsALineForEachResult(t *testing.T) {
	var out bytes.Buffer
	if err := writeJSON(&out, someResults(t)); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := [][]string{
		{"n", "per_sec", "system", "work"},
		{"n", "per_sec", "system", "work"},
		{"n", "note", "system", "work"},
		{"n", "p50_ms", "p99_ms", "system", "work"},
		{"n", "p50_ms", "p99_ms", "system", "work"},
		{"n", "per_sec", "system", "work"},
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), &out)
	}
	for i, line := range lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("line %d: %v", i, err)
		}
		if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want[i]) {
			t.Errorf("line %d has %v, want %v", i, got, want[i])
		}
	}
}

func TestTableComparesWithReprise(t *testing.T) {
	var out bytes.Buffer
	if err := writeTable(&out, someResults(t)); err != nil {
		t.Fatal(err)
	}
	want := `work             system    measured           p99 ms  reprise is better by  note
drain            reprise   30,000 per second
                 river     12,000 per second          2.50×
                 graphile  –                                                not offered: <node> & "npm" are not installed
latency          reprise   0.50 ms (p50)      2.00
                 river     40.0 ms (p50)      100     80.0×
history-1000000  reprise   29,000 per second
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}

func TestARateShowsHowLongACallTakes(t *testing.T) {
	w := workNamed(t, "kafka-publish-16")
	rs := []result{{System: ours, Work: w.name, figures: figures{PerSec: 500, P50: 1.5, P99: 1000}, work: w}}
	if got := rows(rs)[0]; got.figure != "500 per second, 1.50 ms (p50)" || got.p99 != "1,000" {
		t.Errorf("the row is %+v", got)
	}
	cs, _ := charts(rs)
	if b := cs[0].Bars[0]; b.Tail != 0 || b.Value != "500" || b.Width != barRoom {
		t.Errorf("the bar is %+v: want one of 500 a second alone", b)
	}
}

func TestNumbersKeepThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{
		0: "", 0.123: "0.12", 9.994: "9.99", 9.996: "10.0", 99.94: "99.9", 99.96: "100", 999.4: "999", 1234.5: "1,235", 1234567: "1,234,567",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestSVGIsWellFormed(t *testing.T) {
	rs := someResults(t)
	drain := *rs[0].work
	drain.about = `less < more & "quoted"`
	for i := range 3 {
		rs[i].work = &drain
	}
	var out bytes.Buffer
	if err := writeSVG(&out, rs); err != nil {
		t.Fatal(err)
	}
	bars := 0
	var text strings.Builder
	d := xml.NewDecoder(&out)
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if token.Name.Local == "rect" && slices.ContainsFunc(token.Attr, func(a xml.Attr) bool { return a.Name.Local == "height" && a.Value == "18" }) {
				bars++
			}
		case xml.CharData:
			text.Write(token)
		}
	}
	if bars != 5 {
		t.Errorf("%d bars, want one for each of 5 figures", bars)
	}
	for _, want := range []string{"drain, per second", `less < more & "quoted"`, "30,000", "0.50 (p99 2.00)", "graphile", "history-1000000"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text has no %q:\n%s", want, &text)
		}
	}
}

func TestShellWordsHideTheURL(t *testing.T) {
	for _, args := range [][]string{{"-database-url", "postgres://u:secret@h/d"}, {"--database-url=postgres://u:secret@h/d"}} {
		if got := shellWords(args); strings.Contains(got, "secret") || !strings.HasSuffix(got, "$TEST_DATABASE_URL") {
			t.Errorf("shellWords(%q) = %q", args, got)
		}
	}
	if got := shellWords([]string{"-o", "json", "-results", "my file"}); got != "-o json -results 'my file'" {
		t.Errorf("shellWords = %q", got)
	}
}
