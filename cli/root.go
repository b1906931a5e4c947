package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/decode"
)

// app is one call of the command line.
type app struct {
	stdin          io.Reader
	stdout, stderr *guard
	getenv         func(string) string
	decoder        decode.Decoder

	databaseURL string
	schema      string
	output      format
	started     bool // the command line was understood
}

func newRoot(a *app) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "reprise",
		Short: "See and replay what failed in a Reprise database",
		Long: `reprise looks into the record of a Reprise database: which handler failed on
which event, and why. It runs again what failed, discards it, or corrects it.

It only writes to the database, and needs none of the application's code: what
is replayed is run by whatever process serves the handler.`,
		Example: `  export REPRISE_DATABASE_URL=postgres://user:password@host:5432/database
  reprise runs groups
  reprise runs list --status FAILED --handler send-welcome-email
  reprise runs replay --handler send-welcome-email --since 2h --reason 'mail server is back'`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			a.started = true
		},
	},
		migrateCommand(a), publishCommand(a), runsCommand(a), eventsCommand(a), handlersCommand(a), topicsCommand(a), outboxCommand(a),
		replaysCommand(a), actionsCommand(a), backfillCommand(a), pruneCommand(a), doctorCommand(a), versionCommand(a), exitCodesTopic())
	flags := root.PersistentFlags()
	flags.StringVar(&a.databaseURL, "database-url", "", "postgres://… or sqlite:FILE; better in REPRISE_DATABASE_URL, where others do not see the password")
	flags.StringVar(&a.schema, "schema", "", `schema of the tables, on SQLite their prefix (REPRISE_SCHEMA; default "reprise")`)
	flags.VarP(&a.output, "output", "o", "table or json")
	complete(root, "output", formats()...)
	return root
}

// group makes a command that only has subcommands.
func group(c *cobra.Command, subcommands ...*cobra.Command) *cobra.Command {
	c.AddCommand(subcommands...)
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return fmt.Errorf("unknown command %q", args[0])
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return c
}

// complete offers values of a flag for the shell's completion.
func complete[S ~string](c *cobra.Command, flag string, values ...S) {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = string(v)
	}
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // fails only for an unknown flag
}

// do makes the body of a command without arguments.
func do(f func(ctx context.Context) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error { return f(c.Context()) }
}
