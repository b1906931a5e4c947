package main

import (
	"context"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/store"
)

// StockChanged is the event: a warehouse has counted.
type StockChanged struct {
	SKU       string `json:"sku"`
	Warehouse string `json:"warehouse"`
	Available int    `json:"available"`
	Count     int    `json:"count"` // how many times this was counted: the highest is the latest
}

const stockChanged = "stock.changed"

// EventName is the topic.
func (StockChanged) EventName() string { return stockChanged }

// EventKey is what the event is about. The record shows it with each run.
func (e StockChanged) EventKey() string { return e.SKU }

const stockTable = `CREATE TABLE IF NOT EXISTS stock (
	sku text, warehouse text, available integer NOT NULL, count integer NOT NULL,
	PRIMARY KEY (sku, warehouse))`

// count writes what a warehouse has counted and publishes it, both or neither. It
// begins again where the database has refused it for others at work: tellBuyers
// works in transactions at the same time, and they may be serializable.
func (a *app) count(ctx context.Context, sku, warehouse string, available int) error {
	e := StockChanged{SKU: sku, Warehouse: warehouse, Available: available}
	return store.Again(ctx, func() error {
		return a.bus.InTx(ctx, func(tx *bus.Tx) error {
			if err := tx.QueryRowContext(ctx, `
				INSERT INTO stock (sku, warehouse, available, count) VALUES ($1, $2, $3, 1)
				ON CONFLICT (sku, warehouse) DO UPDATE SET available = excluded.available, count = stock.count + 1
				RETURNING count`, sku, warehouse, available).Scan(&e.Count); err != nil {
				return err
			}
			return a.bus.PublishTx(ctx, tx, e)
		})
	})
}
