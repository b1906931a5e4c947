package reprisetest_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/reprisetest"
	"github.com/reprise-bus/reprise/store"
)

const file = "testdata/4711.json"

// From a run that failed in a database, through a file, to the same failure in
// a test.
func TestWhatFailedInProductionFailsInTheTest(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		ctx, stop := context.WithCancel(t.Context())
		failed := make(chan int64, 1)
		h := handlers.New("mail", func(ctx context.Context, e placed) error {
			return errors.New(surname(e.ID))
		}, handlers.Policy{Attempts: 1, Cycles: 1, OnExhausted: func(_ context.Context, run store.Run, _ error) error {
			failed <- run.ID
			return nil
		}})
		b, err := bus.Open(t.Context(), url, bus.Config{Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		require.NoError(t, b.Handle(h))
		over := make(chan error, 1)
		go func() { over <- b.Run(ctx) }()
		require.NoError(t, b.Publish(t.Context(), placed{"<1>"}))
		id := <-failed
		stop()
		require.NoError(t, <-over)
		d, err := replay.Export(t.Context(), b.Store(), id)
		require.NoError(t, err)
		require.NoError(t, b.Close())
		require.Equal(t, store.Failed, d.Run().Status)

		name := filepath.Join(t.TempDir(), "run.json")
		f, err := os.Create(name)
		require.NoError(t, err)
		_, err = d.WriteTo(f)
		require.NoError(t, errors.Join(err, f.Close()))

		require.Equal(t, d, reprisetest.Load(t, name))
		var result reprisetest.Result
		message := failures(t, func(t testing.TB) { result = reprisetest.Replay(t, h, name) })
		require.True(t, result.Reproduced)
		require.Equal(t, store.Failed, result.Status)
		require.Contains(t, message, `fails on event "`+d.Event().ID+`" of topic "order.placed" as it did in production`)
		require.Contains(t, message, "handlers_test.go:", "where it panicked")
		require.Empty(t, failed, "the callbacks are not called")
	})
}

func TestAReplaySeesTheMessageThatProductionSaw(t *testing.T) {
	t.Parallel()
	d := reprisetest.Load(t, file)
	calls := 0
	h := handlers.New("send-welcome-email", func(ctx context.Context, e UserSignedUp) error {
		calls++
		require.Equal(t, UserSignedUp{ID: "42", Name: "Aristotle", Email: "aristotle@example.com"}, e)
		msg := cqrs.OriginalMessageFromCtx(ctx)
		require.Equal(t, d.Event().ID, msg.UUID)
		require.Equal(t, d.Event().Metadata, map[string]string(msg.Metadata))
		require.Equal(t, d.Event().Payload, []byte(msg.Payload))
		delivery, ok := handlers.DeliveryFrom(ctx)
		require.True(t, ok)
		run := delivery.Run()
		require.Equal(t, []any{int64(4711), 16, 1, 0, store.Pending}, []any{run.ID, run.Attempt, run.Tries, run.Cycle, run.Status})
		deadline, ok := ctx.Deadline()
		require.True(t, ok)
		require.WithinDuration(t, time.Now().Add(time.Hour), deadline, time.Minute)
		return nil
	}, handlers.Policy{Timeout: time.Hour})
	require.Equal(t, reprisetest.Result{Status: store.Success}, reprisetest.Replay(t, h, file))
	require.Equal(t, 1, calls)
}

func TestAReplayThatFailsSaysWhetherProductionDidSo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handle     func() error
		want       []string
		reproduced bool
	}{
		"the same panic": {
			handle:     func() error { return errors.New(surname("Plato")) },
			want:       []string{"as it did in production (run 4711): panic: panic: runtime error: index out of range [1] with length 1", "handlers_test.go:"},
			reproduced: true,
		},
		"the same words, and no panic": {
			handle: func() error { return errors.New("panic: runtime error: index out of range [1] with length 1") },
			want:   []string{"but not as it did in production (run 4711):\n\tnow:  error: panic: runtime", "\n\tthen: panic: panic: runtime"},
		},
		"another": {
			handle: func() error { return handlers.Permanent(errors.New("no such user")) },
			want:   []string{"now:  permanent: no such user", "then: panic: panic: runtime"},
		},
	} {
		calls := 0
		h := handlers.New("send-welcome-email", func(context.Context, UserSignedUp) error {
			calls++
			return c.handle()
		})
		var result reprisetest.Result
		message := failures(t, func(t testing.TB) { result = reprisetest.Replay(t, h, file) })
		for _, want := range c.want {
			require.Contains(t, message, want, name)
		}
		require.Equal(t, c.reproduced, result.Reproduced, name)
		require.Error(t, result.Err, name)
		require.Len(t, result.Attempts, 1, name)
		require.Equal(t, 1, calls, name)
	}
}

func TestAReplayOfARunThatNeverFailedSaysSo(t *testing.T) {
	t.Parallel()
	name := edited(t, `"error_kind": "panic",`, "", `"kind": "panic"`, `"kind": "callback"`)
	message := failures(t, func(t testing.TB) { reprisetest.Replay(t, welcome(errors.New("no")), name) })
	require.Contains(t, message, "; in production it did not (run 4711): error: no")
}

// The policy may have given up for another reason than the first one.
func TestAnyFailureOfTheRunIsReproduced(t *testing.T) {
	t.Parallel()
	name := edited(t, `"error_kind": "panic"`, `"error_kind": "error"`, `"error": "panic: runtime error: index out of range [1] with length 1"`, `"error": "no server"`)
	for _, h := range []*handlers.Handler{welcome(errors.New("no server")), handlers.New("send-welcome-email", func(context.Context, UserSignedUp) error {
		return errors.New(surname("Plato"))
	})} {
		var result reprisetest.Result
		require.NotEmpty(t, failures(t, func(t testing.TB) { result = reprisetest.Replay(t, h, name) }))
		require.True(t, result.Reproduced)
	}
}

func TestAReplayTimesOutLikeTheBus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := handlers.New("send-welcome-email", func(ctx context.Context, _ UserSignedUp) error {
			<-ctx.Done()
			return ctx.Err()
		}, handlers.Policy{Timeout: time.Hour})
		var result reprisetest.Result
		began := time.Now()
		message := failures(t, func(t testing.TB) { result = reprisetest.Replay(t, h, file) })
		require.Contains(t, message, "timeout: the timeout of 1h0m0s was over")
		require.Equal(t, store.KindTimeout, result.Attempts[0].Kind)
		require.Equal(t, time.Hour, time.Since(began))
	})
}

func TestAReplaySnoozesUntilItIsDone(t *testing.T) {
	t.Parallel()
	calls := 0
	h := handlers.New("send-welcome-email", func(context.Context, UserSignedUp) error {
		if calls++; calls < 3 {
			return handlers.Snooze(time.Hour)
		}
		return nil
	})
	require.Equal(t, reprisetest.Result{Status: store.Success, Waited: 2 * time.Hour}, reprisetest.Replay(t, h, file))
}

func TestWhatCannotBeReplayedSaysWhy(t *testing.T) {
	t.Parallel()
	for want, replayed := range map[string]func(t testing.TB){
		"no/such.json: no such file":                                               func(t testing.TB) { reprisetest.Replay(t, welcome(nil), "no/such.json") },
		"replay_test.go: read exported run: invalid character":                     func(t testing.TB) { reprisetest.Replay(t, welcome(nil), "replay_test.go") },
		"the handler is nil":                                                       func(t testing.TB) { reprisetest.Replay(t, nil, file) },
		`a run of handler "send-welcome-email", and this is handler "grant-trial"`: func(t testing.TB) { reprisetest.Replay(t, nothing[UserSignedUp]("grant-trial"), file) },
		`handler "send-welcome-email" is transactional: give it a database`: func(t testing.TB) {
			reprisetest.Replay(t, nothing[UserSignedUp]("send-welcome-email", handlers.Policy{Transactional: true}), file)
		},
		"undecodable: event 01955180-3c00-7000-8000-000000000001 does not decode": func(t testing.TB) {
			reprisetest.Replay(t, nothing[int]("send-welcome-email"), file)
		},
	} {
		require.Contains(t, failures(t, replayed), want)
	}
}

func welcome(err error) *handlers.Handler {
	return handlers.New("send-welcome-email", func(context.Context, UserSignedUp) error { return err })
}

// edited is the document, with pairs of old and new.
func edited(t *testing.T, changes ...string) string {
	t.Helper()
	document, err := os.ReadFile(file)
	require.NoError(t, err)
	changed := strings.NewReplacer(changes...).Replace(string(document))
	require.NotEqual(t, string(document), changed)
	name := filepath.Join(t.TempDir(), "edited.json")
	require.NoError(t, os.WriteFile(name, []byte(changed), 0o600))
	return name
}
