package kafkaserver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestParseMajor(t *testing.T) {
	for version, want := range map[string]int{
		"openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime Environment": 17,
		`java version "1.8.0_412"`:          8,
		`openjdk version "25" 2025-09-16`:   25,
		`openjdk version "21-ea"`:           21,
		"Picked up X\nopenjdk version \"24": 24,
	} {
		got, err := parseMajor(version)
		require.NoError(t, err, version)
		require.Equal(t, want, got, version)
	}
	_, err := parseMajor("java")
	require.ErrorContains(t, err, "no version number")
}

func TestWithoutJavaItSaysWhatToDo(t *testing.T) {
	t.Setenv("JAVA_HOME", t.TempDir())
	_, err := Start(t.Context(), Options{})
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, "install one")
	require.ErrorContains(t, err, "set JAVA_HOME")
}

// What is downloaded is what was listed, and is downloaded once.
func TestDownload(t *testing.T) {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		if r.URL.Path == "/missing" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, "a jar")
	}))
	defer server.Close()
	const sum = "94eeacb03deba3a44ad1b6ba5f3e2413a69fe69fcf09f0bf8ee23a2b5b5d6b0a"
	file := filepath.Join(t.TempDir(), "cache", "a.jar")
	err := download(t.Context(), server.Client(), server.URL+"/a.jar", file, sum)
	require.ErrorContains(t, err, "want "+sum)
	left, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Empty(t, left)
	require.False(t, intact(file, sum))
	err = download(t.Context(), server.Client(), server.URL+"/missing", file, sum)
	require.ErrorContains(t, err, "/missing: 404")
	got := fmt.Sprintf("%x", sha256.Sum256([]byte("a jar")))
	require.NoError(t, download(t.Context(), server.Client(), server.URL+"/a.jar", file, got))
	require.True(t, intact(file, got))
	require.Equal(t, 3, requests)
}

func TestWithoutARegistryItSaysWhatToDo(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("MAVEN_REPOSITORY", server.URL)
	_, err := classpath(t.Context())
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "set MAVEN_REPOSITORY")
	require.ErrorContains(t, err, "404")
}

func TestEveryJarIsListedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(jars), "\n") {
		sum, path, ok := strings.Cut(line, "  ")
		require.True(t, ok, line)
		require.Len(t, sum, 64, line)
		require.False(t, seen[filepath.Base(path)], line)
		seen[filepath.Base(path)] = true
	}
	require.True(t, seen["kafka_2.13-"+version+".jar"])
}

// What was written is there after a stop, and after a crash, at the same
// address.
func TestABrokerIsStartedAgain(t *testing.T) {
	s := start(t, Options{Partitions: 3})
	if s == nil {
		return
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Addr), kgo.AllowAutoTopicCreation(), kgo.ConsumeTopics("topic"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	produce := func(payload string) {
		require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Topic: "topic", Value: []byte(payload)}).FirstErr())
	}
	produce("before")
	s.Stop()
	require.NoError(t, s.Restart(ctx))
	produce("stopped")
	s.Kill()
	require.NoError(t, s.Restart(ctx))
	produce("killed")
	var got []string
	for len(got) < 3 {
		require.NoError(t, ctx.Err())
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
		t.Log(got)
	}
	require.ElementsMatch(t, []string{"before", "stopped", "killed"}, got)
	require.Empty(t, s.Close())
	require.NoDirExists(t, s.Dir)
}

// The guard sees the launcher die as its end of a pipe closing.
func TestABrokerEndsWithItsLauncher(t *testing.T) {
	s := start(t, Options{})
	if s == nil {
		return
	}
	s.release()
	require.True(t, s.endsWithin(10*time.Second), "the broker outlived its launcher")
	require.NoDirExists(t, s.Dir)
}

func TestABrokerThatCannotStartShowsItsLog(t *testing.T) {
	_, err := Start(t.Context(), Options{Settings: []string{"num.network.threads=none"}})
	if absent(t, err) {
		return
	}
	require.ErrorContains(t, err, "num.network.threads")
}

// start starts a broker. Where it cannot be had there is nothing to start, and
// the error says so.
func start(t *testing.T, options Options) *Server {
	t.Helper()
	s, err := Start(context.Background(), options)
	if absent(t, err) {
		return nil
	}
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func absent(t *testing.T, err error) bool {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnavailable) {
		t.Log(err)
		return true
	}
	return false
}
