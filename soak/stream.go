package main

import (
	"context"
	"database/sql"
	"errors"
)

// stream reads rows in the order of their event ids, which is the first column.
type stream[T any] struct {
	rows *sql.Rows
	scan func(rows *sql.Rows, id *string, into *T) error
	id   string // of head
	head T
	more bool
}

func newStream[T any](ctx context.Context, db *sql.DB, query string, scan func(rows *sql.Rows, id *string, into *T) error) (*stream[T], error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s := &stream[T]{rows: rows, scan: scan}
	return s, s.next()
}

func (s *stream[T]) next() error {
	s.more = s.rows.Next()
	if !s.more {
		return s.rows.Err()
	}
	s.head = *new(T)
	return s.scan(s.rows, &s.id, &s.head)
}

// take returns the rows of the event id, which is not after the head's.
func (s *stream[T]) take(id string) (all []T, err error) {
	for s.more && s.id == id {
		all = append(all, s.head)
		if err := s.next(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// lowest makes id the head's where that is lower, or the first.
func (s *stream[T]) lowest(id string, found bool) (string, bool) {
	if s.more && (!found || s.id < id) {
		return s.id, true
	}
	return id, found
}

// close closes a stream, which may be nil.
func (s *stream[T]) close() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.rows.Err(), s.rows.Close())
}
