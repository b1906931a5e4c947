package testdb

import (
	"database/sql"
	"net/url"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// Driver is a database/sql driver for PostgreSQL, set up in one of the ways that
// make it send statements differently.
type Driver struct {
	Name     string
	Pools    bool // sends nothing that has to find an earlier statement on the same connection
	driver   string
	settings url.Values // of the URL
}

// Drivers are lib/pq and pgx in every mode that they have.
func Drivers() []Driver {
	all := []Driver{
		{"lib/pq", false, "postgres", nil},
		{"lib/pq binary_parameters", true, "postgres", url.Values{"binary_parameters": {"yes"}}},
	}
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		settings, pools := url.Values{"default_query_exec_mode": {mode}}, false
		if mode == "exec" || mode == "simple_protocol" {
			pools = true
			settings.Set("datestyle", "ISO") // whose times come as text
		}
		all = append(all, Driver{"pgx " + mode, pools, "pgx", settings})
	}
	return all
}

// Open returns a pool on the database, which is closed when the test and its
// subtests are over.
func (d Driver) Open(t testing.TB, address string) *sql.DB {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	for name, values := range d.settings {
		query[name] = values
	}
	u.RawQuery = query.Encode()
	db, err := sql.Open(d.driver, u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}
