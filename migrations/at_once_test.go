package migrations_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/migrations"
)

const atOnce = 10

func TestPoolsThatMigrateAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		start := make(chan struct{})
		ended := make(chan error, atOnce)
		for range atOnce {
			db := open(t, s)
			go func() {
				<-start
				ended <- migrations.Up(t.Context(), db, "")
			}()
		}
		close(start)
		for range atOnce {
			require.NoError(t, <-ended)
		}
		requireMigratedOnce(t, s)
	})
}

func TestProcessesThatMigrateAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s source) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wait, start, err := os.Pipe() // what starts all of them is its end
		require.NoError(t, err)
		defer wait.Close()
		defer start.Close()

		ended := make([]func() error, atOnce)
		for i := range ended {
			ended[i] = migrate(ctx, t, s, wait)
		}
		require.NoError(t, start.Close())
		for _, end := range ended {
			require.NoError(t, end())
		}
		requireMigratedOnce(t, s)
	})
}

func requireMigratedOnce(t *testing.T, s source) {
	t.Helper()
	db := open(t, s)
	require.NoError(t, migrations.Check(t.Context(), db, ""))
	versions := recorded(t, db, s, "reprise")
	require.Regexp(t, `^1 init `, versions[0])
}

// The test binary is also the program that TestProcessesThatMigrateAtOnce
// starts.
const (
	driverVariable = "REPRISE_MIGRATE_DRIVER"
	nameVariable   = "REPRISE_MIGRATE_NAME"
)

func TestMain(m *testing.M) {
	name, other := os.LookupEnv(nameVariable)
	if !other {
		os.Exit(m.Run())
	}
	if err := migrateOnSignal(source{driver: os.Getenv(driverVariable), name: name}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// migrateOnSignal is the other process: it says that it is ready, waits for
// the end of its standard input and migrates.
func migrateOnSignal(s source) error {
	fmt.Println("ready")
	if _, err := io.ReadAll(os.Stdin); err != nil {
		return err
	}
	db, err := s.open()
	if err != nil {
		return err
	}
	defer db.Close()
	return migrations.Up(context.Background(), db, "")
}

// migrate starts a process that is ready to migrate when migrate returns.
func migrate(ctx context.Context, t *testing.T, s source, stdin *os.File) (end func() error) {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), driverVariable+"="+s.driver, nameVariable+"="+s.name)
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	return func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, stderr.String())
		}
		return nil
	}
}
