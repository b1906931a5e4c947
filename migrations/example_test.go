package migrations_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	_ "modernc.org/sqlite"

	"github.com/reprise-bus/reprise/migrations"
)

// A deployment that migrates in a step of its own.
func ExampleUp() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", ":memory:")
	check(err)
	defer db.Close()
	db.SetMaxOpenConns(1)

	var version *migrations.VersionError
	if errors.As(migrations.Check(ctx, db, ""), &version) {
		fmt.Println("before: version", version.Database)
	}
	check(migrations.Up(ctx, db, ""))
	check(migrations.Up(ctx, db, "")) // the second one only reads
	database, program, err := migrations.Versions(ctx, db, "")
	check(err)
	fmt.Println("after: the program's version:", database == program)
	// Output:
	// before: version 0
	// after: the program's version: true
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
