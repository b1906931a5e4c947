package main

import (
	"html/template"
	"io"
	"slices"
)

// A chart has a bar for each result with a figure.
type chart struct {
	Y     int
	Title string
	About string
	Bars  []bar
	End   int // of the bars
}

type bar struct {
	Y           int
	Label       string
	Width, Tail int // Tail is where the thin line of the 99th percentile ends
	Value       string
	ValueX      int
	Colour      string
}

const (
	svgWidth = 860
	barLeft  = 140
	barRoom  = svgWidth - barLeft - 180 // the value stands behind the bar
	barStep  = 24
)

// A system has its colour in all charts; the palette is one that colour-blind readers can tell
// apart.
var colours = map[string]string{
	ours: "#0072b2", "river": "#e69f00", "graphile": "#009e73", "watermill": "#cc79a7", "naive": "#999999",
	stockKafka: "#d55e00", withoutBroker: "#56b4e9",
}

// charts is a chart for each work, and one for all works that only one system does.
func charts(rs []result) (cs []chart, height int) {
	y := 92
	add := func(c chart) {
		if len(c.Bars) > 0 {
			cs = append(cs, c)
			y = c.End + 34
		}
	}
	alone := slices.DeleteFunc(slices.Clone(rs), func(r result) bool { return !r.work.alone() })
	for len(rs) > 0 {
		w := rs[0].work
		k := slices.IndexFunc(rs, func(r result) bool { return r.work != w })
		if k < 0 {
			k = len(rs)
		}
		m := measures[w.measure]
		better := "more is better"
		if m.less {
			better = "less is better"
		}
		if !w.alone() {
			add(newChart(w.name+", "+m.unit, w.about+"; "+better, rs[:k], y, func(r result) string { return r.System }))
		}
		rs = rs[k:]
	}
	add(newChart(ours+" alone, per second", "beside so many finished runs, and by SQL without a bus; more is better", alone, y,
		func(r result) string { return r.Work }))
	return cs, y
}

func newChart(title, about string, rs []result, y int, label func(result) string) chart {
	value := func(r result) float64 { return measures[r.work.measure].value(r.figures) }
	tail := func(r result) float64 { // of what the bar is about
		if r.work.measure != latency {
			return 0
		}
		return r.P99
	}
	longest := 0.0
	for _, r := range rs {
		longest = max(longest, value(r), tail(r))
	}
	c := chart{Y: y, Title: title, About: about, End: y + 28}
	for _, r := range rs {
		v := value(r)
		if v == 0 {
			continue
		}
		b := bar{Y: c.End, Label: label(r), Colour: colours[r.System], Value: number(v), Width: max(1, int(v/longest*barRoom))}
		b.ValueX = barLeft + b.Width
		if p99 := tail(r); p99 != 0 {
			b.Tail = barLeft + int(p99/longest*barRoom)
			b.ValueX = max(b.ValueX, b.Tail)
			b.Value += " (p99 " + number(p99) + ")"
		}
		b.ValueX += 8
		c.Bars = append(c.Bars, b)
		c.End += barStep
	}
	return c
}

var svgTemplate = template.Must(template.New("svg").Funcs(template.FuncMap{
	"add": func(a, b int) int { return a + b },
}).Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Width}} {{.Height}}" width="{{.Width}}" height="{{.Height}}" role="img" font-family="system-ui, sans-serif" font-size="13">
<title>Reprise beside its peers</title>
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="20" y="32" font-size="18" font-weight="bold" fill="#222222">Reprise beside its peers</text>
{{range .Legend}}<rect x="{{.X}}" y="48" width="12" height="12" fill="{{.Colour}}"/><text x="{{add .X 18}}" y="59" fill="#222222">{{.Name}}</text>
{{end}}{{range .Charts}}<text x="20" y="{{.Y}}" font-weight="bold" fill="#222222">{{.Title}}</text>
<text x="20" y="{{add .Y 17}}" font-size="11" fill="#666666">{{.About}}</text>
{{range .Bars}}<text x="130" y="{{add .Y 14}}" text-anchor="end" fill="#222222">{{.Label}}</text><rect x="140" y="{{.Y}}" width="{{.Width}}" height="18" fill="{{.Colour}}"/>{{if .Tail}}<path d="M{{add 140 .Width}} {{add .Y 9}}H{{.Tail}}M{{.Tail}} {{add .Y 4}}v10" stroke="{{.Colour}}" stroke-width="2" fill="none"/>{{end}}<text x="{{.ValueX}}" y="{{add .Y 14}}" fill="#222222">{{.Value}}</text>
{{end}}{{end}}</svg>
`))

// writeSVG draws a bar chart for each work.
func writeSVG(out io.Writer, rs []result) error {
	type entry struct {
		X            int
		Name, Colour string
	}
	var legend []entry
	for _, s := range systems {
		if slices.ContainsFunc(rs, func(r result) bool { return r.System == s.name }) {
			legend = append(legend, entry{20 + 118*len(legend), s.name, colours[s.name]})
		}
	}
	cs, height := charts(rs)
	return svgTemplate.Execute(out, map[string]any{
		"Width": svgWidth, "Height": height, "Legend": legend, "Charts": cs,
	})
}
