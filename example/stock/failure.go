package main

import (
	"context"

	"github.com/reprise-bus/reprise/store"
)

// StockUpdateFailed is an event too: a cycle is over and the marketplace does
// not have the stock.
type StockUpdateFailed struct {
	Run    int64  `json:"run"`
	SKU    string `json:"sku"`
	Cycle  int    `json:"cycle"` // the one that failed; the first is 1
	Final  bool   `json:"final"` // no other cycle follows
	Reason string `json:"reason"`
}

const stockUpdateFailed = "stock.update_failed"

// EventName is the topic.
func (StockUpdateFailed) EventName() string { return stockUpdateFailed }

// EventKey is what the event is about.
func (e StockUpdateFailed) EventKey() string { return e.SKU }

// publishFailure is the policy's OnFailure. Its context is of the run: the
// event that it publishes carries the correlation id of the count.
func (a *app) publishFailure(ctx context.Context, run store.Run, cause error) error {
	return a.bus.Publish(ctx, StockUpdateFailed{
		Run:    run.ID,
		SKU:    run.Key,
		Cycle:  run.Cycle + 1,
		Final:  run.Status == store.Failed,
		Reason: cause.Error(),
	})
}
