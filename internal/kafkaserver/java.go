package kafkaserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

const oldestJava = 17

// ErrNotFound is returned by Start where no Java is installed.
var ErrNotFound = errors.New("no Java 17 or newer was found: install one (package openjdk-17-jre-headless, java-17-openjdk-headless or openjdk@17), or set JAVA_HOME")

// findJava returns the java of JAVA_HOME when that is set, else the one on the
// PATH.
func findJava() (string, error) {
	java := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java = filepath.Join(home, "bin", "java")
	}
	java, err := exec.LookPath(java)
	if err != nil {
		return "", fmt.Errorf("%w; %w", ErrNotFound, err)
	}
	out, err := exec.Command(java, "-version").CombinedOutput() // where macOS has none, its java exists and fails
	if err != nil {
		return "", fmt.Errorf("%w; %s -version: %w", ErrNotFound, java, err)
	}
	major, err := parseMajor(string(out))
	if err != nil {
		return "", fmt.Errorf("%w; %s -version: %w", ErrNotFound, java, err)
	}
	if major < oldestJava {
		return "", fmt.Errorf("%w; %s is Java %d", ErrNotFound, java, major)
	}
	return java, nil
}

// parseMajor reads the 17 in `openjdk version "17.0.15" 2025-04-15`. Java 8
// calls itself 1.8.
func parseMajor(version string) (int, error) {
	found := regexp.MustCompile(`version "(?:1\.)?(\d+)`).FindStringSubmatch(version)
	if found == nil {
		return 0, fmt.Errorf("no version number in %q", version)
	}
	return strconv.Atoi(found[1])
}
