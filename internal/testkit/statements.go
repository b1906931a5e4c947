package testkit

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
)

// PrepareStatements prepares every statement of the tested package, a constant in a file
// *_sql.go, on a database of each kind that the statement is for. If the constant's name
// ends in Postgres or SQLite, the statement is for this database only.
func PrepareStatements(t *testing.T) {
	t.Helper()
	all := statements(t)
	testdb.Each(t, func(t *testing.T, url string) {
		db := OpenStore(t, url).Database()
		other := "SQLite"
		if db.Kind() == dialect.SQLite {
			other = "Postgres"
		}
		for name, text := range all {
			if strings.HasSuffix(name, other) {
				continue
			}
			prepared, err := db.Pool().PrepareContext(t.Context(), db.SQL(text))
			if err != nil {
				t.Errorf("%s: %v:\n%s", name, err, db.SQL(text))
				continue
			}
			require.NoError(t, prepared.Close())
		}
	})
}

// statements returns the constants of the files *_sql.go by their names.
func statements(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*_sql.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
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
