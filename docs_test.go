package reprise_test

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}

var (
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	code    = regexp.MustCompile("(?ms)^```.*?^```$|`[^`\n]*`")
)

// anchors are those that GitHub gives the headings of a page.
func anchors(page string) map[string]bool {
	all := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(page, -1) {
		all[strings.ReplaceAll(strings.ToLower(regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(h[1], "")), " ", "-")] = true
	}
	return all
}

// A link to a file of this repository names one that there is, and a heading in it.
func TestLinksResolve(t *testing.T) {
	t.Parallel()
	pages := 0
	require.NoError(t, filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "node_modules"):
			return fs.SkipDir
		case filepath.Ext(file) != ".md":
			return nil
		}
		pages++
		for _, l := range link.FindAllStringSubmatch(code.ReplaceAllString(read(t, file), ""), -1) {
			to, err := url.Parse(l[1])
			require.NoError(t, err, "%s: %s", file, l[1])
			if to.IsAbs() {
				continue
			}
			target := file
			if to.Path != "" {
				target = filepath.Join(filepath.Dir(file), to.Path)
			}
			_, err = os.Stat(target)
			require.NoError(t, err, "%s: %s", file, l[1])
			if to.Fragment != "" {
				require.Contains(t, anchors(read(t, target)), to.Fragment, "%s: %s", file, l[1])
			}
		}
		return nil
	}))
	require.Greater(t, pages, 40)
}

func requireWrapped(t *testing.T, file, page string) {
	t.Helper()
	for i, line := range strings.Split(page, "\n") {
		require.LessOrEqual(t, utf8.RuneCountInString(line), 100, "%s:%d: wrap the line at 100 columns", file, i+1)
	}
}

// DESIGN.md is read before anything else: it is short, and a reader finds the answer
// by the question.
func TestDesignIsShort(t *testing.T) {
	t.Parallel()
	page := read(t, "DESIGN.md")
	require.LessOrEqual(t, len(strings.Fields(page)), 4500, "words of DESIGN.md: a decision goes to docs/decisions, a figure to bench/ANALYSIS.md")
	requireWrapped(t, "DESIGN.md", page)
	for _, h := range heading.FindAllStringSubmatch(page, -1)[1:] {
		require.True(t, strings.HasSuffix(h[1], "?"), "DESIGN.md: heading %q: want a question", h[1])
	}
}

// The map of DESIGN.md has no room that does not exist.
func TestDesignNamesPackagesThatExist(t *testing.T) {
	t.Parallel()
	_, part, found := strings.Cut(read(t, "DESIGN.md"), "## Which package holds what?\n")
	require.True(t, found)
	part, _, _ = strings.Cut(part, "\n## ")
	paths := regexp.MustCompile("`((?:internal|pubsub|cmd)/[a-z]+|[a-z]+/|[a-z_]+\\.go)`").FindAllStringSubmatch(part, -1)
	require.Greater(t, len(paths), 30)
	for _, path := range paths {
		if _, err := os.Stat(path[1]); err != nil {
			inQueue := filepath.Join("internal/queue", path[1]) // whose files are named
			_, err = os.Stat(inQueue)
			require.NoError(t, err, "DESIGN.md names %s", path[1])
		}
	}
}

// A decision says when it was made, why, and what follows.
func TestDecisionsHaveAForm(t *testing.T) {
	t.Parallel()
	index := read(t, "docs/decisions/README.md")
	pages, err := filepath.Glob("docs/decisions/[0-9]*.md")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	for _, file := range pages {
		page, name := read(t, file), filepath.Base(file)
		number, _, _ := strings.Cut(name, "-")
		require.Regexp(t, `\A# `+number+`\. .+\n\nDecided \d{4}-\d\d-\d\d\.(?s:.*)\n\n## Context\n\n(?s:.+)\n\n## Decision\n\n(?s:.+)\n\n## Consequences\n\n`, page, file)
		require.Contains(t, index, "("+name+")", "the index of the decisions")
		requireWrapped(t, file, page)
	}
}
