package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// Sequence is the state of the sequence that numbers the rows of a table.
type Sequence struct {
	Table    string // such as "handler_runs"
	Highest  int64  // highest number in the database; 0 if there is none
	Next     int64  // number of the next row
	Readable bool   // whether the asking role may read the sequence; if not, Next is 0
	Mend     string // the statement that sets Next above Highest
}

// IsBehind reports whether the next row would get a number that is taken.
func (q Sequence) IsBehind() bool { return q.Readable && q.Next <= q.Highest }

// numbered lists the tables whose rows the database numbers, with expressions for their
// highest numbers, which an index answers. A number to which another table refers
// counts as taken: a partial restore may have lost the row.
var numbered = []struct{ table, highest string }{
	{"handler_runs", `coalesce((SELECT max(id) FROM reprise.handler_runs), 0), coalesce((SELECT max(run_id) FROM reprise.operation_runs), 0)`},
	{"run_attempts", `coalesce((SELECT max(id) FROM reprise.run_attempts), 0), 0`},
	{"operations", `coalesce((SELECT max(id) FROM reprise.operations), 0), coalesce((SELECT max(operation_id) FROM reprise.operation_runs), 0)`},
	{"outbox", `coalesce((SELECT max(id) FROM reprise.outbox), 0), 0`},
	{"actions", `coalesce((SELECT max(id) FROM reprise.actions), 0), 0`},
}

// Sequences returns the sequences of Reprise's tables. A sequence is behind its table
// after a partial restore or logical replication, because neither restores the
// sequence. On PostgreSQL a table whose id has no sequence is left out.
func (s *Store) Sequences(ctx context.Context) ([]Sequence, error) {
	look := s.postgresSequence
	if s.db.Kind() == dialect.SQLite {
		look = s.sqliteSequence
	}
	var all []Sequence
	for _, n := range numbered {
		q, found, err := look(ctx, n.table, n.highest)
		if err != nil {
			return nil, fmt.Errorf("read the sequence of table %s: %w", n.table, err)
		}
		if found {
			q.Table = n.table
			all = append(all, q)
		}
	}
	return all, nil
}

func (s *Store) postgresSequence(ctx context.Context, table, highest string) (q Sequence, found bool, err error) {
	qualified := s.db.SQL("reprise." + table)
	var name sql.NullString // quoted, including its schema
	if err := s.db.Pool().QueryRowxContext(ctx, s.db.SQL(`
		SELECT q, coalesce(has_sequence_privilege(q, 'SELECT'), false), greatest(`+highest+`) FROM pg_get_serial_sequence($1, 'id') q`),
		qualified).Scan(&name, &q.Readable, &q.Highest); err != nil || !name.Valid {
		return q, false, err
	}
	q.Mend = fmt.Sprintf(`SELECT setval('%s', %s)`, name.String, s.db.SQL(`greatest(`+highest+`)`))
	if !q.Readable {
		return q, true, nil
	}
	// pg_sequences ignores a value that RESTART WITH has set.
	err = s.db.Pool().QueryRowxContext(ctx, `SELECT last_value + CASE WHEN is_called THEN 1 ELSE 0 END FROM `+name.String).Scan(&q.Next)
	return q, true, err
}

// sqliteSequence computes Next as SQLite does: 1 more than the highest number in
// sqlite_sequence and in the table.
func (s *Store) sqliteSequence(ctx context.Context, table, highest string) (q Sequence, found bool, err error) {
	name := s.db.SQL("reprise." + table)
	q = Sequence{Readable: true, Mend: s.db.SQL(fmt.Sprintf(
		`DELETE FROM sqlite_sequence WHERE name = '%[1]s'; INSERT INTO sqlite_sequence (name, seq) SELECT '%[1]s', max(%[2]s)`, name, highest))}
	err = s.db.Pool().QueryRowxContext(ctx, s.db.SQL(`
		SELECT max(coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = $1), 0), coalesce((SELECT max(id) FROM reprise.`+table+`), 0)) + 1,
		       max(`+highest+`)`), name).Scan(&q.Next, &q.Highest)
	return q, true, err
}
