package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/reprise-bus/reprise/handlers"
)

// client speaks to the marketplace.
type client struct {
	url  string
	http *http.Client
}

func newClient(url string) *client { return &client{url: url, http: &http.Client{}} }

// update is the handler: it tells the marketplace what a warehouse has counted.
// It may do so twice, or after a later count – a run that failed is tried again
// while others go on. Neither does harm: the number of the count goes along,
// and the marketplace keeps the highest.
//
// The context ends with the attempt's time (Policy.Timeout), and the request
// with it.
func (c *client) update(ctx context.Context, e StockChanged) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut,
		c.url+"/stock/"+url.PathEscape(e.Warehouse)+"/"+url.PathEscape(e.SKU), bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err // nobody answered: perhaps next time
	}
	defer response.Body.Close()
	said, err := io.ReadAll(io.LimitReader(response.Body, 1024))
	if err != nil {
		return err
	}
	return verdict(response, string(bytes.TrimSpace(said)))
}

// verdict says what an answer means for the run. The policy counts tries and
// cycles; only the handler knows what another try is good for.
func verdict(response *http.Response, said string) error {
	if response.StatusCode < 300 {
		return nil
	}
	err := fmt.Errorf("%d: %s", response.StatusCode, said)
	wait, toldToWait := retryAfter(response)
	switch {
	case response.StatusCode == http.StatusNotFound:
		return handlers.Permanent(err) // no number of tries makes the marketplace know the article
	case toldToWait:
		return handlers.Snooze(wait) // not a failure: it costs no try, however often the marketplace says so
	case response.StatusCode == http.StatusLocked:
		return handlers.SkipCycle(err) // closed: try again when this cycle is over, not within it
	default:
		return err // busy, down: perhaps next time
	}
}

// retryAfter returns what the header of that name says, if it is in seconds.
func retryAfter(response *http.Response) (time.Duration, bool) {
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	return time.Duration(seconds) * time.Second, err == nil && seconds > 0
}
