package migrations

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// UpTo is Up of a program that knows migrations up to the version only.
func UpTo(ctx context.Context, db *sql.DB, schema string, version int) error {
	m, err := newMigrator(ctx, db, schema)
	if err != nil {
		return err
	}
	m.migrations = m.migrations[:version]
	return m.up(ctx, db)
}

// Columns are those of the tables, as in a file NNNN_name.columns.
func Columns(ctx context.Context, db *sql.DB, schema string) (lines []string, err error) {
	m, err := newMigrator(ctx, db, schema)
	if err != nil {
		return nil, err
	}
	all, err := m.columns(ctx, db)
	for _, c := range all {
		lines = append(lines, fmt.Sprintln(c))
	}
	return lines, err
}

// Names are those of the migrations of a database, such as "0001_init".
func Names(kind dialect.Kind) (names []string, err error) {
	all, err := load(kind)
	for _, m := range all {
		names = append(names, fmt.Sprintf("%04d_%s", m.version, m.name))
	}
	return names, err
}
