package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/kafkaserver"
)

func TestConnectRefusesInOneSentence(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := connect(ctx, "127.0.0.1:1")
	require.ErrorContains(t, err, "cannot connect to 127.0.0.1:1, the brokers of KAFKA_BROKERS")
	require.ErrorContains(t, err, "or unset it")
	require.NotContains(t, err.Error(), "\n")
}

func TestWithoutJavaItIsKfake(t *testing.T) {
	t.Setenv("JAVA_HOME", t.TempDir())
	b, err := start(t.Context(), kafkaserver.Options{Partitions: 3})
	require.NoError(t, err)
	defer b.close()
	require.Equal(t, "kfake", b.kind)
	require.Contains(t, b.what, "no Java 17 or newer was found")
	require.NoError(t, connect(t.Context(), b.addr))
}

// What COMMAND gets, and its exit code.
func TestTheCommandFindsTheBroker(t *testing.T) {
	program := t.TempDir() + "/testkafka"
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	cmd := exec.Command(program, "--", "sh", "-c", `echo "$REPRISE_TEST_KAFKA"; `+program+` -- sh -c 'echo "$REPRISE_TEST_KAFKA $KAFKA_BROKERS"; exit 7'`)
	cmd.Env = append(os.Environ(), "JAVA_HOME="+t.TempDir(), "KAFKA_BROKERS=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.ErrorContains(t, cmd.Run(), "exit status 7")
	require.Regexp(t, `^kfake\ngiven 127\.0\.0\.1:\d+\n$`, stdout.String())
	require.Regexp(t, `^testkafka: using kfake .*\ntestkafka: using the brokers of KAFKA_BROKERS, .*\n$`, stderr.String())
}
