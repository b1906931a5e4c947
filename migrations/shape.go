package migrations

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/reprise-bus/reprise/internal/dialect"
)

// ShapeError reports tables without a checksum that no released version made.
type ShapeError struct {
	Schema      string
	Version     int      // the version that the tables claim
	Differences []string // such as "handler_runs has no column tries"

	kind dialect.Kind
}

// manyDifferences is how many differences an error names.
const manyDifferences = 5

func (e *ShapeError) Error() string {
	named := strings.Join(e.Differences[:min(len(e.Differences), manyDifferences)], "; ")
	if more := len(e.Differences) - manyDifferences; more > 0 {
		named += fmt.Sprintf("; and %d more", more)
	}
	move := fmt.Sprintf(`move them away (ALTER SCHEMA "%s" RENAME TO "%s_old") or configure another schema, start again, and copy what you want to keep`, e.Schema, e.Schema)
	if e.kind == dialect.SQLite {
		move = "rename the file or configure another schema, start again, and copy what you want to keep"
	}
	return fmt.Sprintf("schema %q has tables of version %d that were made by a development version from before the first release, and cannot be upgraded: %s: %s; docs/restoring.md has the statements", e.Schema, e.Version, named, move)
}

// Differences compares the tables in schema with those that the migrations of their
// version make. It reports missing tables, missing columns, and columns of another
// type. Added tables, columns and indexes are no difference. It only reads. It returns
// nothing if Reprise has no tables there, or tables of a newer version.
func Differences(ctx context.Context, db *sql.DB, schema string) ([]string, error) {
	m, err := newMigrator(ctx, db, schema)
	if err != nil {
		return nil, err
	}
	have, err := m.read(ctx, db)
	if err != nil || have.version == 0 || have.version > m.target() {
		return nil, err
	}
	return m.differences(ctx, db, have.version)
}

func (m *migrator) refuseShape(ctx context.Context, db querier, version int) error {
	differences, err := m.differences(ctx, db, version)
	if err != nil || len(differences) == 0 {
		return err
	}
	return &ShapeError{Schema: m.schema, Version: version, Differences: differences, kind: m.kind}
}

func (m *migrator) differences(ctx context.Context, db querier, version int) ([]string, error) {
	have, err := m.columns(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("read the columns of schema %q: %w", m.schema, err)
	}
	tables, types := map[string]bool{}, map[[2]string]string{}
	for _, c := range have {
		tables[c.table] = true
		types[[2]string{c.table, c.name}] = c.kind
	}
	var differences []string
	missing := ""
	for _, want := range m.migrations[version-1].columns {
		switch kind, found := types[[2]string{want.table, want.name}]; {
		case want.table == missing:
		case !tables[want.table]:
			missing = want.table
			differences = append(differences, "there is no table "+want.table)
		case !found:
			differences = append(differences, want.table+" has no column "+want.name)
		case kind != want.kind:
			differences = append(differences, fmt.Sprintf("%s.%s is %s instead of %s", want.table, want.name, kind, want.kind))
		}
	}
	return differences, nil
}

// column is a line of a file NNNN_name.columns.
type column struct{ table, name, kind string }

func (c column) String() string { return c.table + " " + c.name + " " + c.kind }

func parseColumns(text string) (all []column) {
	for line := range strings.Lines(text) {
		table, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, kind, _ := strings.Cut(rest, " ")
		all = append(all, column{table, name, kind})
	}
	return all
}

// columns returns the columns of all tables except migrations, by table and name. It
// reads the catalogue, because the views of information_schema omit tables on which the
// role has no rights.
func (m *migrator) columns(ctx context.Context, db querier) (all []column, err error) {
	query := `
		SELECT c.relname::text, a.attname::text,
		       format_type(a.atttypid, a.atttypmod)
		       || CASE a.attgenerated WHEN '' THEN '' ELSE ' generated' END
		       || CASE a.attidentity WHEN '' THEN '' ELSE ' identity' END
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relname <> 'migrations' AND a.attnum > 0 AND NOT a.attisdropped
		ORDER BY c.relname COLLATE "C", a.attname COLLATE "C"`
	if m.kind == dialect.SQLite {
		query = `
		SELECT substr(t.name, length($1) + 2), c.name, c.type || CASE WHEN c.hidden > 1 THEN ' generated' ELSE '' END
		FROM sqlite_master t JOIN pragma_table_xinfo(t.name) c
		WHERE t.type = 'table' AND substr(t.name, 1, length($1) + 1) = $1 || '_' AND t.name <> $1 || '_migrations'
		ORDER BY t.name, c.name`
	}
	rows, err := db.QueryContext(ctx, query, m.schema)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c column
		if err := rows.Scan(&c.table, &c.name, &c.kind); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, rows.Err()
}
