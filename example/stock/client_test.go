package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/store"
)

func TestEachAnswerHasItsVerdict(t *testing.T) {
	first := store.Run{Handler: updateMarketplaceStock, Status: store.Pending, Attempt: 1, Tries: 1}
	for _, c := range []struct {
		status     int
		retryAfter string
		want       store.Status
		kind       store.Kind // "" leaves no attempt on record
		nextCycle  bool
		delay      time.Duration
	}{
		{status: 200, want: store.Success},
		{status: 204, want: store.Success},
		{status: 404, want: store.Failed, kind: store.KindPermanent},
		{status: 423, want: store.Pending, kind: store.KindSkipCycle, nextCycle: true, delay: time.Hour},
		{status: 423, retryAfter: "7", want: store.Pending, delay: 7 * time.Second},
		{status: 503, retryAfter: "7", want: store.Pending, delay: 7 * time.Second},
		{status: 503, retryAfter: "0", want: store.Pending, kind: store.KindError, delay: time.Minute},
		{status: 503, retryAfter: "soon", want: store.Pending, kind: store.KindError, delay: time.Minute},
		{status: 503, want: store.Pending, kind: store.KindError, delay: time.Minute},
		{status: 500, want: store.Pending, kind: store.KindError, delay: time.Minute},
		{status: 302, want: store.Pending, kind: store.KindError, delay: time.Minute},
	} {
		recorder := httptest.NewRecorder()
		recorder.Header().Set("Retry-After", c.retryAfter)
		recorder.WriteHeader(c.status)
		policy := handlers.Policy{CycleInterval: time.Hour, Backoff: handlers.Backoff{Initial: time.Minute, Jitter: -1}}
		o := policy.Decide(first, verdict(recorder.Result(), "its words"))
		require.Equal(t, c.want, o.Status, "%+v", c)
		require.Equal(t, c.nextCycle, o.NextCycle, "%+v", c)
		require.Equal(t, c.delay, o.Delay, "%+v", c)
		require.Equal(t, c.kind == "" && c.want == store.Pending, o.Refund, "%+v", c)
		if c.kind == "" {
			require.Nil(t, o.Failure, "%+v", c)
		} else {
			require.Equal(t, c.kind, o.Failure.Kind)
			require.Contains(t, o.Failure.Message, "its words")
		}
	}
}

// A run that was tried again may come after a later count.
func TestTheLatestCountIsWhatStays(t *testing.T) {
	m, c := startedMarketplace(t)
	m.heal()
	for _, e := range []StockChanged{
		{SKU: "A/B 1", Warehouse: "porto", Available: 5, Count: 1},
		{SKU: "A/B 1", Warehouse: "porto", Available: 3, Count: 2},
		{SKU: "A/B 1", Warehouse: "porto", Available: 5, Count: 1},
	} {
		require.NoError(t, c.update(t.Context(), e))
	}
	available, known := m.available("porto", "A/B 1")
	require.True(t, known)
	require.Equal(t, 3, available)
}

func TestNobodyAnswers(t *testing.T) {
	m, err := startMarketplace()
	require.NoError(t, err)
	require.NoError(t, m.close())
	c := newClient(m.url)
	require.Equal(t, store.KindError, handlers.Failure(updateMarketplaceStock, c.update(t.Context(), StockChanged{SKU: "MUG"})).Kind)
}

// The request ends with the attempt.
func TestAnAttemptThatIsOverAsksNoMore(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-answer
	}))
	defer server.Close()
	defer close(answer)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	require.ErrorIs(t, newClient(server.URL).update(ctx, StockChanged{SKU: "MUG", Warehouse: "porto"}), context.Canceled)
}

func startedMarketplace(t *testing.T) (*marketplace, *client) {
	t.Helper()
	m, err := startMarketplace()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.close()) })
	return m, newClient(m.url)
}
