package bus_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/pubsub/transport"
)

// Whatever is wrong with a URL, or with settings that are none, no error and no log
// line has a part of the password.
func TestNoErrorQuotesAPassword(t *testing.T) {
	t.Parallel()
	const secret = "hunter"
	urls := []string{
		"host=localhost user=ada password=hunter2",
		"host=localhost password=hunter2:7 dbname=app",
		"password=hunter2://x",
		"password='hunter2 7' host=localhost:5432",
		"hunter2 7",
		"ada:hunter2@host:5432/app",
		"hunter2:7@host/app",
		"mysql://ada:hunter2@host/app",
		"postgres://ada:hunter2@host:port/app",
		"postgres://ada:hunter2%zz@host/app",
		"postgres://ada:hunter 2@host/app",
		"postgres://ada:7?hunter2@host:port/app",
		"postgresql://ada:hunter2\x00@host/app",
		"sqlite:app.db?_key=hunter2%zz",
		"kafka://ada:hunter2@h1:9092,ada:hunter2@h2:9092",
		"kafka://ada:7?hunter2@host:9092",
		"kafka://ada:hunter2@host:9092?tls=perhaps",
		"kafka://ada:hunter2@host:9092/path",
		"kafka://ada:hunter2@host:port",
		"kafka://ada:hunter2@host:9092?mode=nonsense",
		"nats://ada:7?hunter2@host:4222",
		"nats://ada:hunter2@host:port",
		"nats://ada:hunter2@host:4222#x",
		"nats://ada:hunter2%zz@host:4222",
		"redis://ada:hunter2@host",
	}
	for _, url := range urls {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			config := bus.Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
			_, err := transport.Open(url, config.Logger)
			if err != nil {
				require.NotContains(t, err.Error(), secret)
			}
			if !strings.HasPrefix(url, "kafka:") && !strings.HasPrefix(url, "nats:") && !strings.HasPrefix(url, "sqlite:") {
				_, err = bus.Open(t.Context(), url, config)
				require.Error(t, err)
				require.NotContains(t, err.Error(), secret)
			}
			listening := config
			listening.DB = testdb.Open(t, testdb.SQLite(t))
			listening.ListenURL = url
			if b, err := bus.New(t.Context(), listening); err != nil {
				require.NotContains(t, err.Error(), secret)
			} else {
				require.NoError(t, b.Close())
			}
			require.NotContains(t, log.String(), secret)
		})
	}
}
