package cli

import (
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/reprise-bus/reprise/internal/words"
)

// meter shows progress: a bar on a terminal, or else a line every 5 s.
type meter struct {
	out   *guard
	bar   *progressbar.ProgressBar // nil without a terminal
	what  string
	total int64 // 0 when unknown
	said  time.Time
}

// sayEvery is how often a meter writes a line without a terminal.
const sayEvery = 5 * time.Second

// meter returns a meter up to total; 0 when the total is unknown.
func (a *app) meter(what string, total int64) *meter {
	what = words.Line(what)
	m := &meter{out: a.stderr, what: what, total: total, said: time.Now()}
	if _, ok := terminal(a.stderr); !ok {
		return m
	}
	options := []progressbar.Option{
		progressbar.OptionSetWriter(a.stderr.to),
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(24),
		progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(false),
	}
	if m.total == 0 {
		total = -1 // a spinner, which shows its own turns instead of a count
	} else {
		options = append(options, progressbar.OptionShowCount())
	}
	m.bar = progressbar.NewOptions64(total, options...)
	return m
}

// set shows that n are done, with a text about them.
func (m *meter) set(n int64, about string) {
	what := m.what
	if about != "" {
		what += " " + about
	}
	what = words.Line(what) // the bar is drawn, so that hidden characters must be escaped first
	switch {                // errors are ignored: the user sees that the terminal fails
	case m.bar != nil && m.total > 0:
		m.bar.Describe(what)
		_ = m.bar.Set64(min(n, m.total))
	case m.bar != nil:
		m.bar.Describe(what + " " + words.Thousands(n))
		_ = m.bar.Add(1)
	case time.Since(m.said) >= sayEvery:
		m.said = time.Now()
		fmt.Fprintf(m.out, "%s: %s\n", what, words.Thousands(n))
	}
}

// clear removes the bar from its line.
func (m *meter) clear() {
	if m.bar != nil {
		_ = m.bar.Clear()
	}
}
