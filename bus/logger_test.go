package bus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/store"
)

type lines struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// The router does not log what the subscriber logs, and nothing is an ERROR that is no
// failure.
func TestAFailedAttemptIsLoggedOnceUnderTheBus(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		var log lines
		b, err := bus.Open(t.Context(), url, bus.Config{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		require.NoError(t, b.Handle(handlers.New("h", func(ctx context.Context, _ placed) error {
			d, _ := handlers.DeliveryFrom(ctx)
			switch d.Run().Attempt {
			case 1:
				return errors.New("first")
			case 2:
				return handlers.Snooze(0)
			default:
				return handlers.Permanent(errors.New("last"))
			}
		}, handlers.Policy{Backoff: handlers.Backoff{Initial: time.Millisecond}})))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx) }()
		require.NoError(t, b.Publish(t.Context(), placed{"1"}))
		testkit.WaitForRun(t, b.Store(), store.Filter{Status: store.Failed})
		stop()
		require.NoError(t, testkit.Receive(t, ended))
		var levels []string
		log.mu.Lock()
		defer log.mu.Unlock()
		for line := range bytes.Lines(log.out.Bytes()) {
			var is struct{ Level, Msg, Error string }
			require.NoError(t, json.Unmarshal(line, &is))
			if is.Error != "" || is.Level == "ERROR" {
				levels = append(levels, is.Level+" "+is.Error)
			}
		}
		require.Equal(t, []string{"WARN first", "ERROR last"}, levels)
	})
}
