package reprise_test

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
)

// The complete program of the README, as it stands there, is built, run, and
// interrupted.
func TestTheProgramInTheReadmeRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := build(t, dir, programIn(t, "README.md"))

	cmd := exec.Command(program)
	cmd.Dir = dir
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })

	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan(), "it printed nothing")
	require.Equal(t, "welcome, ada@example.com", lines.Text())
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait(), "it exits with 0 on Ctrl-C")
	require.FileExists(t, filepath.Join(dir, "app.db"))
}

// programIn returns the complete program of a page.
func programIn(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	found := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindSubmatch(text)
	require.NotNil(t, found, "%s has no complete program", page)
	return string(found[1])
}

// The page for contributors names files: each exists, so that who moves one
// mends the page.
func TestTheFilesThatContributingNamesExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("CONTRIBUTING.md")
	require.NoError(t, err)
	_, page, found := strings.Cut(string(text), "## Where do I change")
	require.True(t, found)
	named := regexp.MustCompile("`([\\w.-]+/[\\w./-]*|[\\w-]+_test\\.go)`").FindAllStringSubmatch(page, -1)
	require.Greater(t, len(named), 50)
	for _, name := range named {
		if !strings.Contains(name[1], "NAME") && !strings.Contains(name[1], "NNNN") && name[1] != "../" && name[1] != "/v2" {
			_, err := os.Stat(name[1])
			require.NoError(t, err, "CONTRIBUTING.md names %s", name[1])
		}
	}
}

// Each program of a page is in an Example, line by line, in this order. The
// Example may have more lines, such as those that print what is compared.
func TestTheProgramsOfTheReadmeAreExamples(t *testing.T) {
	t.Parallel()
	for page, examples := range map[string][]string{
		"README.md": {
			"bus/example_program_test.go",
			"handlers/example_test.go",
			"replay/example_test.go",
			"middleware/example_test.go",
			"pubsub/example_test.go",
			"pubsub/transport/example_test.go",
		},
		"docs/cli.md": {"cli/example_test.go"},
	} {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		programs := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(text, -1)
		require.Len(t, programs, len(examples), "%s: each program has its Example, in the order of the page", page)
		for i, example := range examples {
			source, err := os.ReadFile(example)
			require.NoError(t, err)
			lines := linesOf(string(source))
			for _, line := range linesOf(body(string(programs[i][1]))) {
				at := slices.Index(lines, line)
				require.GreaterOrEqual(t, at, 0, "%s: program %d has a line that is not in %s, or not in this order: %s", page, i+1, example, line)
				lines = lines[at+1:]
			}
		}
	}
}

// body returns a complete program from the end of its imports to its function
// check, without the line that begins main; anything else is returned as it is.
func body(program string) string {
	if _, rest, complete := strings.Cut(program, "import ("); complete {
		_, program, _ = strings.Cut(rest, "\n)\n")
		program = strings.Replace(program, "\nfunc main() {\n", "\n", 1)
		program, _, _ = strings.Cut(program, "\nfunc check(")
	}
	return program
}

// linesOf returns the lines that are not empty, with one space for each blank
// space: gofmt aligns comments by the lines around them.
func linesOf(text string) (lines []string) {
	for line := range strings.Lines(text) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// The program of the page on CQRS runs, and its command ends in its group.
func TestTheProgramInThePageOnCQRSRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(build(t, dir, programIn(t, "docs/cqrs.md")))
	cmd.Dir = dir
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan(), "it printed nothing")
	require.Equal(t, "room 7 is booked for Ada", lines.Text())
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait(), "it exits with 0 on Ctrl-C")
}

// The binary of the page on the command line shows a payload of protobuf as JSON.
func TestTheCommandLineOfAnApplicationDecodesItsPayloads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	reprise := build(t, dir, programIn(t, "docs/cli.md"))
	url := "sqlite:" + filepath.Join(dir, "app.db")
	b, err := bus.Open(t.Context(), url, bus.Config{Marshaler: cqrs.ProtoMarshaler{}})
	require.NoError(t, err)
	require.NoError(t, b.Handle(handlers.New("h", func(context.Context, *wrapperspb.StringValue) error { return nil })))
	require.NoError(t, b.Publish(t.Context(), wrapperspb.String("ada@example.com")))
	require.NoError(t, b.Close())

	cmd := exec.Command(reprise, "runs", "show", "1", "--payload")
	cmd.Env = append(os.Environ(), "REPRISE_DATABASE_URL="+url)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "\"ada@example.com\"\n(decoded from 17 bytes of wrapperspb.StringValue")
}

// build compiles a main package as if it stood in this module.
func build(t *testing.T, dir, source string) string {
	t.Helper()
	here, err := os.Getwd()
	require.NoError(t, err)
	file, overlay, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "program")
	require.NoError(t, os.WriteFile(file, []byte(source), 0o600))
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(here, "internal", "readme", "main.go"): file}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, replace, 0o600))
	out, err := exec.Command("go", "build", "-overlay", overlay, "-o", program, "./internal/readme").CombinedOutput()
	require.NoError(t, err, string(out))
	return program
}
