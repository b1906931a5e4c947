package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/reprise-bus/reprise/internal/visible"
	"github.com/reprise-bus/reprise/internal/words"
)

// format is the output format: a table for people, or JSON.
type format string

func formats() []string { return []string{"table", "json"} }

func (f *format) Set(text string) error {
	if !slices.Contains(formats(), text) {
		return fmt.Errorf("output %q: want table or json", text)
	}
	*f = format(text)
	return nil
}

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

// print prints data as JSON, or calls people.
func (a *app) print(data any, people func(out io.Writer)) error {
	if a.output == "json" {
		return a.printJSON(data, "  ")
	}
	out, text := page()
	people(out)
	return errors.Join(out.close(), a.stdout.draw(text.String()))
}

func (a *app) printJSON(data any, indent string) error {
	out := json.NewEncoder(a.stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", indent)
	return out.Encode(data)
}

// say prints a message to standard error. An argument cannot begin a new line, unless
// it is of type lines.
func (a *app) say(format string, args ...any) { fmt.Fprintln(a.stderr, sentence(format, args...)) }

// lines is a text of several lines, for say.
type lines string

// sentence formats a text. No argument can begin a new line, unless it is of type
// lines.
func sentence(format string, args ...any) string {
	for i, arg := range args {
		switch arg := arg.(type) {
		case string:
			args[i] = visible.Line(arg)
		case error:
			args[i] = visible.Line(arg.Error())
		}
	}
	return fmt.Sprintf(format, args...)
}

// terminal returns the file of a stream if it is a terminal.
func terminal(stream any) (*os.File, bool) {
	if s, ok := stream.(*guard); ok {
		stream = s.to
	}
	file, ok := stream.(*os.File)
	return file, ok && term.IsTerminal(int(file.Fd()))
}

// width returns the number of characters in a line of the stream; 0 for no limit.
func width(stream any) int {
	file, ok := terminal(stream)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// coloured reports whether the output may have colours.
func (a *app) coloured() bool {
	_, ok := terminal(a.stdout)
	return ok && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

// colour is a colour code of a terminal. All codes have the same length, so that the
// cells of a column stay aligned.
type colour string

const (
	plain  colour = "\x1b[39m"
	red    colour = "\x1b[31m"
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
	reset         = "\x1b[0m"
)

// cell is a table cell with a colour.
type cell struct {
	text string
	colour
}

// table is a table for people, cut to the width of the terminal.
type table struct {
	rows [][]cell
	app  *app
}

func (a *app) table(columns ...string) *table {
	t := &table{app: a}
	header := make([]any, len(columns))
	for i, c := range columns {
		header[i] = c
	}
	t.add(header...)
	return t
}

// add adds a row of values. A value may be a cell.
func (t *table) add(values ...any) {
	row := make([]cell, len(values))
	for i, v := range values {
		var ok bool
		if row[i], ok = v.(cell); !ok {
			row[i] = cell{text: fmt.Sprint(v)}
		}
	}
	t.rows = append(t.rows, row)
}

func (t *table) write(out io.Writer) {
	var text bytes.Buffer
	columns := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range t.rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = words.Line(c.text)
			if t.app.coloured() && t.inColour(i) {
				if c.colour == "" {
					c.colour = plain
				}
				cells[i] = string(c.colour) + cells[i] + reset
			}
		}
		fmt.Fprintln(columns, strings.Join(cells, "\t"))
	}
	columns.Flush() // in memory it cannot fail
	limit := width(t.app.stdout)
	for row := range strings.Lines(text.String()) {
		draw(out, words.Cut(strings.TrimRight(row, " \n"), limit)+"\n")
	}
}

func (t *table) inColour(column int) bool {
	return slices.ContainsFunc(t.rows, func(row []cell) bool { return column < len(row) && row[column].colour != "" })
}
