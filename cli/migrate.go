package cli

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/migrations"
)

func migrateCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:     "migrate",
		Short:   "Make and upgrade the tables",
		Example: "  reprise migrate status\n  reprise migrate up",
	}, migrateUpCommand(a), migrateStatusCommand(a))
}

func migrateUpCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "up",
		Short: "Bring the tables to the version of this program",
		Long: `Bring the tables to the version of this program, all or nothing. It may be
called again, and by many at once. A SQLite file that is not there is made.`,
		Example: "  reprise migrate up --database-url sqlite:app.db",
		Args:    cobra.NoArgs,
		RunE: do(func(ctx context.Context) error {
			return a.withDatabase(ctx, toMigrate, func(db *sql.DB) error {
				if err := migrations.Up(ctx, db, a.schemaName()); err != nil {
					return explain(err)
				}
				return a.migrateStatus(ctx, db)
			})
		}),
	}
}

func migrateStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Say of which version the tables are",
		Long:    "Say of which version the tables are. It fails when that is not this program's,\nor when other migrations than this program's made the tables.",
		Example: "  reprise migrate status -o json",
		Args:    cobra.NoArgs,
		RunE: do(func(ctx context.Context) error {
			return a.withDatabase(ctx, toLook, func(db *sql.DB) error { return a.migrateStatus(ctx, db) })
		}),
	}
}

func (a *app) migrateStatus(ctx context.Context, db *sql.DB) error {
	answer, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	database, program, err := migrations.Versions(answer, db, a.schemaName())
	if err != nil {
		return explain(err)
	}
	problem := migrations.Check(answer, db, a.schemaName())
	status := struct {
		Schema   string `json:"schema"`
		Database int    `json:"database"`
		Program  int    `json:"program"`
		UpToDate bool   `json:"up_to_date"`
	}{cmp.Or(a.schemaName(), dialect.DefaultSchema), database, program, problem == nil}
	if err := a.print(status, func(out io.Writer) {
		fmt.Fprintf(out, "schema %q is at version %d, and this reprise needs %d\n", status.Schema, status.Database, status.Program)
	}); err != nil {
		return err
	}
	return explain(problem)
}
