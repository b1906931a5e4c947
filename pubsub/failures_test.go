package pubsub_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/internal/brief"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/store"
)

// lines keeps what is logged, as JSON.
type lines struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// of returns the lines that have the attribute.
func (l *lines) of(t *testing.T, attribute string) (found []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.out.Bytes()) {
		var is map[string]any
		require.NoError(t, json.Unmarshal(line, &is))
		if is[attribute] != nil {
			found = append(found, is)
		}
	}
	return found
}

// Each failed attempt is one line: a warning while another try follows, an error when
// the run is FAILED.
func TestAFailedAttemptIsOneLine(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		var log lines
		ps := configured(t, st, pubsub.Config{Logger: log.logger()})
		work(t, ps, handlers.Policy{Attempts: 2, Cycles: 1, Backoff: soon}, func(run store.Run) error {
			return fmt.Errorf("attempt %d failed", run.Attempt)
		})
		msg := newMessage("x")
		require.NoError(t, ps.Publisher().Publish("topic", msg))
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		found := log.of(t, "run")
		require.Len(t, found, 2)
		for i, line := range found {
			require.Equal(t, []string{"WARN", "ERROR"}[i], line["level"])
			require.EqualValues(t, only(t, st).ID, line["run"])
			require.Equal(t, msg.UUID, line["event"])
			require.Equal(t, "topic", line["topic"])
			require.Equal(t, "handler", line["handler"])
			require.EqualValues(t, i+1, line["attempt"])
			require.Equal(t, fmt.Sprintf("%d of 2", i+1), line["try"])
			require.Equal(t, "1 of 1", line["cycle"])
			require.Equal(t, fmt.Sprintf("attempt %d failed", i+1), line["error"])
		}
		_, err := time.Parse(time.RFC3339, found[0]["next"].(string))
		require.NoError(t, err)
		require.NotContains(t, found[1], "next")
	})
}

// A snooze is no failure, and no line.
func TestASnoozeIsNoLine(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		var log lines
		ps := configured(t, st, pubsub.Config{Logger: log.logger()})
		calls := work(t, ps, handlers.Policy{}, func(store.Run) error { return handlers.Snooze(time.Hour) })
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		testkit.Receive(t, calls)
		require.NoError(t, ps.Close())
		require.Greater(t, time.Until(only(t, st).DueAt), 50*time.Minute)
		require.Empty(t, log.of(t, "run"))
	})
}

// Of equal failures the first have lines, the others are counted: the record has all.
func TestAStormOfFailuresIsSummedUp(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		const n = 90 // fewer than work keeps calls
		st := testkit.OpenStore(t, url)
		var log lines
		ps := configured(t, st, pubsub.Config{Logger: log.logger()})
		work(t, ps, handlers.Policy{Attempts: 1, Cycles: 1}, func(run store.Run) error {
			return fmt.Errorf("dial tcp 10.0.0.7:25: connection refused, mail %d", run.ID)
		})
		messages := make([]*message.Message, n)
		for i := range messages {
			messages[i] = newMessage("x")
		}
		require.NoError(t, ps.Publisher().Publish("topic", messages...))
		require.Eventually(t, func() bool {
			counted, err := st.Count(t.Context(), store.Filter{Status: store.Failed})
			require.NoError(t, err)
			return counted.N == n
		}, patience, 10*time.Millisecond)
		require.NoError(t, ps.Close())
		single := log.of(t, "run")
		require.Len(t, single, 10)
		summed := 0
		for _, line := range log.of(t, "failed_runs") {
			require.Equal(t, "ERROR", line["level"])
			require.Equal(t, "handler", line["handler"])
			require.NotEmpty(t, line["fingerprint"])
			require.Contains(t, line["last_error"], "connection refused")
			summed += int(line["failed_runs"].(float64))
		}
		require.Equal(t, n, len(single)+summed)
		for _, run := range runs(t, st, store.Filter{Status: store.Failed, Limit: 5}) {
			require.Len(t, attemptsOf(t, st, run), 1)
		}
	})
}

func TestALongErrorIsCutInTheLog(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := testkit.OpenStore(t, url)
		var log lines
		ps := configured(t, st, pubsub.Config{Logger: log.logger()})
		huge := errors.New(strings.Repeat("ü", 8<<20))
		work(t, ps, handlers.Policy{Attempts: 1, Cycles: 1}, func(store.Run) error { return huge })
		require.NoError(t, ps.Publisher().Publish("topic", newMessage("x")))
		testkit.WaitForStatus(t, st, "handler", store.Failed, 1)
		found := log.of(t, "run")
		require.Len(t, found, 1)
		require.LessOrEqual(t, len(found[0]["error"].(string)), brief.Most)
		require.Equal(t, only(t, st).Error, found[0]["error"])
	})
}
