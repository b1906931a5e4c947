package testdb

import (
	"net/url"
	"os"
	"regexp"
	"testing"
)

// Roles are the URLs of one database, as roles that each may do something else.
type Roles struct {
	Migrator    string // owns the schema
	Application string // runs
	Support     string // looks
	Server      *Server
}

var sqlBlocks = regexp.MustCompile("(?s)```sql\n(.*?)```")

// NewRoles makes the roles on a server of their own, by the very statements of
// a document: its first block of SQL before migrate, its second one after it.
// By default nobody else may run any function.
func NewRoles(t testing.TB, document string, migrate func(url string)) Roles {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	blocks := sqlBlocks.FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Fatalf("%s has %d blocks of SQL, want 2", document, len(blocks))
	}
	r := Roles{Server: NewServer(t)}
	u, err := url.Parse(r.Server.URL)
	if err != nil {
		t.Fatal(err)
	}
	as := func(role string) string {
		u.User = url.User(role)
		return u.String()
	}
	r.Server.Exec(blocks[0][1], `ALTER DEFAULT PRIVILEGES FOR ROLE migrator REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC`)
	r.Migrator, r.Application, r.Support = as("migrator"), as("application"), as("support")
	migrate(r.Migrator)
	if _, err := Open(t, r.Migrator).Exec(blocks[1][1]); err != nil {
		t.Fatalf("the grants of %s: %v", document, err)
	}
	return r
}
