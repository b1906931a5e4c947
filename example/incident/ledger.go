package main

import (
	"context"
	"fmt"
)

// invoice is published when it is issued.
type invoice struct {
	Number   int
	Customer struct{ ID int }
	Account  string
	Cents    int
}

func (invoice) EventName() string  { return "invoice.issued" }
func (i invoice) EventKey() string { return fmt.Sprintf("customer-%d", i.Customer.ID) }

// number is the nth invoice. Of a hundred, six come when the ledger is down,
// three are of an account that nobody knows, and one is of less than nothing.
func number(n int) invoice {
	i := invoice{Number: n, Account: fmt.Sprintf("A-%04d", n%5000), Cents: 100 + n%900}
	i.Customer.ID = n % 20_000
	switch {
	case n%100 >= 91 && n%100 <= 93:
		i.Account = fmt.Sprintf("X-%04d", n%5000)
	case n%100 == 99:
		i.Cents = -i.Cents
	}
	return i
}

type ledger struct{ up bool }

func (l ledger) post(_ context.Context, i invoice) error {
	switch {
	case i.Cents < 0:
		return fmt.Errorf("invoice %d: amount %d is negative", i.Number, i.Cents)
	case i.Account[0] == 'X':
		return fmt.Errorf("invoice %d: no account %q", i.Number, i.Account)
	case !l.up && i.Number%100 < 6:
		return fmt.Errorf("post invoice %d: dial tcp 10.0.0.%d:5432: connection refused", i.Number, i.Number%3)
	default:
		return nil
	}
}
