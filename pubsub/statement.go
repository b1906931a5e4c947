package pubsub

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/store"
)

// insertNow is insert in a transaction of its own, of events that need not be
// unique; it returns those that it gave to the statement, and the others of their
// ids. Those that are likely to be new are written as such first. After a collision,
// others are publishing the same events: the statement that looks for known ones is
// tried then, several times, since it locks events in one order.
func (p *PubSub) insertNow(ctx context.Context, events []store.Event, h *handover) (unique, others []store.Event, inserted store.Inserted, err error) {
	if p.news.expected() {
		inserted, err := p.insertBy(ctx, composer{p.store.InsertNew, store.InsertNewError}, p.store.DB(), events, h)
		if !errors.Is(err, store.ErrKnown) && !store.Collided(err) {
			return events, nil, inserted, err
		}
	}
	unique, others, err = store.Unique(events)
	if err != nil {
		return nil, nil, inserted, err
	}
	err = store.Again(ctx, func() (err error) {
		inserted, err = p.insert(ctx, p.store.DB(), unique, h)
		return err
	})
	p.news.came(err == nil && len(inserted.IDs) == len(events))
	return unique, others, inserted, err
}

// insert writes unique events in one statement, with the leases that the
// handover asks for.
func (p *PubSub) insert(ctx context.Context, db wsql.ContextExecutor, events []store.Event, h *handover) (store.Inserted, error) {
	return p.insertBy(ctx, composer{p.store.Insert, store.InsertError}, db, events, h)
}

// composer makes a statement and explains its error.
type composer struct {
	compose func(events []store.Event, lease store.LeaseOnInsert) (query string, args []any, err error)
	explain func(error) error
}

// insertBy runs a statement of the store through watermill-sql's Publisher.
func (p *PubSub) insertBy(ctx context.Context, by composer, db wsql.ContextExecutor, events []store.Event, h *handover) (store.Inserted, error) {
	h.begin()
	defer h.inserted()
	s := &statement{ContextExecutor: db, ctx: ctx, store: p.store, composer: by, events: events, lease: h.lease()}
	publisher, err := wsql.NewPublisher(s, wsql.PublisherConfig{SchemaAdapter: s}, watermill.NopLogger{})
	if err != nil {
		return store.Inserted{}, err
	}
	// watermill-sql takes fewer names of topics than there are (store.ValidTopic), and
	// needs none: the events know theirs.
	if err := publisher.Publish("reprise"); err != nil {
		if h.wanted() && !store.Refused(err) {
			p.doubt(h.leaser)
		}
		return store.Inserted{}, by.explain(err)
	}
	if h.wanted() && len(s.inserted.IDs) < len(events) {
		// database/sql runs a statement again whose connection was lost: what
		// is there already may have been leased by the first time.
		p.doubt(h.leaser)
		defer signal(p.wake)
	}
	h.leased(s.inserted.Leased, events)
	return s.inserted, nil
}

// statement is one insert. It is the SchemaAdapter of watermill-sql's
// Publisher and the executor that the Publisher runs the query on: under the
// caller's context, which the Publisher does not pass on, and keeping the rows
// that the query returns. Its events may be of several topics.
type statement struct {
	wsql.ContextExecutor
	ctx      context.Context
	store    *store.Store
	composer composer
	events   []store.Event
	lease    store.LeaseOnInsert
	inserted store.Inserted
}

// InsertQuery implements watermill-sql's SchemaAdapter.
func (s *statement) InsertQuery(string, message.Messages) (wsql.Query, error) {
	query, args, err := s.composer.compose(s.events, s.lease)
	return wsql.Query{Query: query, Args: args}, err
}

// ExecContext runs the query and keeps what it returns.
func (s *statement) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	err := s.store.Query(s.ctx, s.ContextExecutor, query, args, func(rows *sql.Rows) (err error) {
		s.inserted, err = s.store.ScanInserted(rows, s.events)
		return err
	})
	if err != nil {
		return nil, err
	}
	return driver.RowsAffected(len(s.inserted.IDs)), nil
}

// SchemaInitializingQueries returns none: package migrations makes the tables.
func (*statement) SchemaInitializingQueries(string) []wsql.Query { return nil }

// SelectQuery returns none: due runs are claimed, not read by offset.
func (*statement) SelectQuery(string, string, wsql.OffsetsAdapter) wsql.Query { return wsql.Query{} }

// SubscribeIsolationLevel implements watermill-sql's SchemaAdapter.
func (*statement) SubscribeIsolationLevel() sql.IsolationLevel { return sql.LevelReadCommitted }

// UnmarshalMessage always fails: see SelectQuery.
func (*statement) UnmarshalMessage(wsql.Scanner) (wsql.Row, error) {
	return wsql.Row{}, errors.New("messages of Reprise are read by pubsub.Subscriber, not by watermill-sql's")
}
