package queue_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/internal/testkit"
)

// Every statement is one text that its database accepts: no syntax error or wrong column
// waits for the day on which the statement runs.
func TestEveryStatementCanBePrepared(t *testing.T) {
	t.Parallel()
	all := statements(t)
	testdb.Each(t, func(t *testing.T, url string) {
		db := testkit.OpenStore(t, url).Database()
		prepared := 0
		for name, text := range all {
			if other := otherDatabase(db.Kind()); strings.HasSuffix(name, other) {
				continue
			}
			statement, err := db.Pool().PrepareContext(t.Context(), db.SQL(text))
			if err != nil {
				t.Errorf("%s: %v:\n%s", name, err, db.SQL(text))
				continue
			}
			require.NoError(t, statement.Close())
			prepared++
		}
		require.Greater(t, prepared, 15, "the test finds the statements")
	})
}

// otherDatabase returns the end of the names of statements that this kind of database
// does not run.
func otherDatabase(kind dialect.Kind) string {
	if kind == dialect.SQLite {
		return "Postgres"
	}
	return "SQLite"
}

// statements returns the constants of the files *_sql.go by their names.
func statements(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*_sql.go")
	require.NoError(t, err)
	found := map[string]string{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			constant, is := n.(*ast.ValueSpec)
			if !is {
				return true
			}
			for i, id := range constant.Names {
				literal, is := constant.Values[i].(*ast.BasicLit)
				require.True(t, is && literal.Kind == token.STRING, "%s: %s: want one literal, not joined from parts", name, id.Name)
				text, err := strconv.Unquote(literal.Value)
				require.NoError(t, err)
				require.Regexp(t, `^\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\s`, text, "%s: %s: want a statement", name, id.Name)
				found[id.Name] = text
			}
			return true
		})
	}
	return found
}
