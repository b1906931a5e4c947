package reprise_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// The complete program of the README, as it stands there, is built, run, and
// interrupted.
func TestTheProgramInTheReadmeRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := build(t, dir, readmeProgram(t))

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

func readmeProgram(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	found := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindSubmatch(readme)
	require.NotNil(t, found, "README.md has no complete program")
	return string(found[1])
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
