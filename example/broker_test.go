package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/testbroker"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// By environment alone the story is told over Kafka.
func TestTheStoryOverKafka(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		broker := testbroker.OwnKafka(t)
		var out, errs bytes.Buffer
		code := run(t.Context(), nil, &out, &errs, func(name string) string {
			return map[string]string{"DATABASE_URL": url, "REPRISE_TRANSPORT": "kafka://" + broker.Addr}[name]
		})
		t.Log("\n" + out.String())
		require.Zero(t, code, errs.String())
		require.Contains(t, out.String(), "The events wait in the outbox")
		require.Contains(t, out.String(), "and 3 mails are out.")
	})
}

// The broker is killed in the middle of a load of sign-ups: every sign-up
// succeeds, and every mail goes out once when the broker is back.
func TestSignUpsWhileTheBrokerIsKilled(t *testing.T) {
	t.Parallel()
	const people = 300
	broker := testbroker.OwnKafka(t)
	require.NoError(t, withApp(t.Context(), testdb.Postgres(t), "kafka://"+broker.Addr, t.Output(), func(a *app) error {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.bus.Run(ctx) }()
		defer func() {
			stop()
			require.NoError(t, <-ended)
		}()
		server := httptest.NewServer(a.routes())
		defer server.Close()

		var next atomic.Int64
		var callers sync.WaitGroup
		killed := make(chan struct{})
		for range 8 {
			callers.Go(func() {
				for n := next.Add(1); n <= people; n = next.Add(1) {
					if n == people/3 {
						broker.Kill()
						close(killed)
					}
					if n > people/2 {
						<-killed // the rest signs up while it is down
					}
					response, err := http.Post(server.URL+"/signup", "application/json", strings.NewReader(fmt.Sprintf(`{"email": "%03d@example.com"}`, n)))
					if err != nil {
						t.Error(err)
						return
					}
					response.Body.Close()
					if response.StatusCode != http.StatusCreated {
						t.Errorf("sign-up %d: %s", n, response.Status)
					}
				}
			})
		}
		callers.Wait()
		require.Less(t, len(a.mail.mails()), people, "the broker was down")
		broker.Start()
		require.Eventually(t, func() bool { return len(a.mail.mails()) >= people }, time.Minute, 20*time.Millisecond)
		to := map[string]int{}
		for _, m := range a.mail.mails() {
			to[m.to]++
		}
		require.Len(t, to, people)
		require.Len(t, a.mail.mails(), people, "nobody gets two")
		require.Eventually(t, func() bool {
			done, err := a.bus.Store().Count(t.Context(), store.Filter{Status: store.Success})
			return err == nil && done.N == 2*people
		}, time.Minute, 20*time.Millisecond)
		return nil
	}))
}
