package main

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
)

//go:embed graphile/graphile.mjs graphile/package.json graphile/package-lock.json
var graphileFiles embed.FS

// graphileDir is where its packages are installed, once for all runs: in the user's cache, by the
// hash of the files that ask for them.
var graphileDir = sync.OnceValues(func() (string, error) {
	for _, tool := range []string{"node", "npm"} {
		if _, err := osexec.LookPath(tool); err != nil {
			return "", fmt.Errorf("%s is not installed", tool)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	files := make(map[string][]byte)
	sum := sha256.New()
	err = fs.WalkDir(graphileFiles, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := graphileFiles.ReadFile(path)
		files[filepath.Base(path)] = body
		sum.Write(body)
		return err
	})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "reprise-bench", "graphile-"+hex.EncodeToString(sum.Sum(nil))[:12])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	// Installed beside and renamed, so that an interrupted install is not taken for a finished one.
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "installing-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(temp, name), body, 0o644); err != nil {
			return "", err
		}
	}
	npm := osexec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = temp
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w: %s", err, lastLine(out))
	}
	return dir, os.Rename(temp, dir)
})

func graphileCommand() ([]string, error) {
	dir, err := graphileDir()
	if err != nil {
		return nil, err
	}
	return []string{"node", filepath.Join(dir, "graphile.mjs")}, nil
}

// graphileVersion is the version installed, not the one asked for.
func graphileVersion() (string, error) {
	dir, err := graphileDir()
	if err != nil {
		return "", err
	}
	body, err := os.ReadFile(filepath.Join(dir, "node_modules", "graphile-worker", "package.json"))
	if err != nil {
		return "", err
	}
	var pkg struct{ Version string }
	if err := json.Unmarshal(body, &pkg); err != nil {
		return "", err
	}
	if pkg.Version == "" {
		return "", errors.New("graphile-worker has no version")
	}
	return pkg.Version, nil
}

func lastLine(out []byte) string {
	lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
	return lines[len(lines)-1]
}
