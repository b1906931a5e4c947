package testdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"
	"modernc.org/sqlite"
)

// Gate stands between a pool and its driver, and stops statements there. With
// it a test causes what would otherwise depend on timing: a statement is under
// way for as long as the test wants.
type Gate struct {
	mu    sync.Mutex
	stops []*Stop
}

// OpenGate returns a pool on the database that is behind a gate. The pool is
// closed when the test and its subtests are over. On SQLite the pool has several
// connections: a statement that is stopped keeps one.
func OpenGate(t testing.TB, url string) (*sql.DB, *Gate) {
	t.Helper()
	c := &gateConnector{gate: &Gate{}}
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		source := "file:" + path + "?_txlock=immediate&_pragma=busy_timeout(60000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=foreign_keys(1)"
		c.driver = &sqlite.Driver{}
		c.connect = func(context.Context) (driver.Conn, error) { return c.driver.Open(source) }
	} else {
		connector, err := pq.NewConnector(url)
		if err != nil {
			t.Fatal(err)
		}
		c.driver, c.connect = connector.Driver(), connector.Connect
	}
	db := sql.OpenDB(c)
	t.Cleanup(func() {
		c.gate.open()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db, c.gate
}

// Match says whether a statement is the one to stop. It sees each statement, in
// turn; a commit is the statement COMMIT.
type Match func(query string, args []driver.NamedValue) bool

// Stop is the place where one statement waits.
type Stop struct {
	match   Match
	after   bool
	reached chan struct{}
	open    chan struct{}
	once    sync.Once
}

// Before stops the next statement that match accepts before the database gets
// it.
func (g *Gate) Before(match Match) *Stop { return g.stop(match, false) }

// After stops the next statement that match accepts when the database has begun
// to answer it, before the caller gets the answer.
func (g *Gate) After(match Match) *Stop { return g.stop(match, true) }

func (g *Gate) stop(match Match, after bool) *Stop {
	s := &Stop{match: match, after: after, reached: make(chan struct{}), open: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stops = append(g.stops, s)
	return s
}

// Wait returns when a statement has stopped. The test fails when none does
// within a minute.
func (s *Stop) Wait(t testing.TB) {
	t.Helper()
	select {
	case <-s.reached:
	case <-time.After(time.Minute):
		t.Fatal("no statement came that was to be stopped")
	}
}

// Release lets the statement go on.
func (s *Stop) Release() { s.once.Do(func() { close(s.open) }) }

// open lets everything through that has stopped, or will.
func (g *Gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.stops {
		s.Release()
	}
	g.stops = nil
}

// pass waits at the stop for the statement, if there is one.
func (g *Gate) pass(ctx context.Context, query string, args []driver.NamedValue, after bool) error {
	g.mu.Lock()
	at := slices.IndexFunc(g.stops, func(s *Stop) bool {
		select {
		case <-s.reached:
			return false
		default:
			return s.after == after && s.match(query, args)
		}
	})
	if at < 0 {
		g.mu.Unlock()
		return nil
	}
	s := g.stops[at]
	close(s.reached)
	g.mu.Unlock()
	select {
	case <-s.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type gateConnector struct {
	driver  driver.Driver
	connect func(context.Context) (driver.Conn, error)
	gate    *Gate
}

func (c *gateConnector) Driver() driver.Driver { return c.driver }

func (c *gateConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	return &gateConn{conn.(fullConn), c.gate}, nil
}

// fullConn is what the connections of both drivers do.
type fullConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.QueryerContext
	driver.ExecerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type gateConn struct {
	fullConn
	gate *Gate
}

func (c *gateConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return stopped(ctx, c.gate, query, args, func() (driver.Rows, error) { return c.fullConn.QueryContext(ctx, query, args) })
}

func (c *gateConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return stopped(ctx, c.gate, query, args, func() (driver.Result, error) { return c.fullConn.ExecContext(ctx, query, args) })
}

func (c *gateConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	stmt, err := c.fullConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return &gateStmt{stmt.(fullStmt), c.gate, query}, nil
}

func (c *gateConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := c.fullConn.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &gateTx{tx, c.gate}, nil
}

type gateTx struct {
	driver.Tx
	gate *Gate
}

func (tx *gateTx) Commit() error {
	_, err := stopped(context.Background(), tx.gate, "COMMIT", nil, func() (struct{}, error) { return struct{}{}, tx.Tx.Commit() })
	return err
}

// CheckNamedValue leaves to database/sql what the driver does not check.
func (c *gateConn) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := c.fullConn.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

// fullStmt is what the prepared statements of both drivers do.
type fullStmt interface {
	driver.Stmt
	driver.StmtQueryContext
	driver.StmtExecContext
}

type gateStmt struct {
	fullStmt
	gate  *Gate
	query string
}

func (s *gateStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return stopped(ctx, s.gate, s.query, args, func() (driver.Rows, error) { return s.fullStmt.QueryContext(ctx, args) })
}

func (s *gateStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return stopped(ctx, s.gate, s.query, args, func() (driver.Result, error) { return s.fullStmt.ExecContext(ctx, args) })
}

// stopped runs a statement between its stops. Rows that nobody gets are closed.
func stopped[R any](ctx context.Context, g *Gate, query string, args []driver.NamedValue, run func() (R, error)) (result R, err error) {
	if err := g.pass(ctx, query, args, false); err != nil {
		return result, err
	}
	if result, err = run(); err != nil {
		return result, err
	}
	if err := g.pass(ctx, query, args, true); err != nil {
		if rows, ok := any(result).(driver.Rows); ok {
			_ = rows.Close()
		}
		var none R
		return none, err
	}
	return result, nil
}
