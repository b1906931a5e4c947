package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/store"
)

// The exit codes. Scripts rely on them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNothing     = 3
	exitWarning     = 4
	exitCritical    = 5
	exitInterrupted = 130
)

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes say",
		Long: `  0    done
  1    failed, or answered with no; with --wait, too, when a run failed again
  2    the command line is not understood, or wants an answer without a terminal
  3    nothing was found or selected
  4    doctor warns
  5    doctor found something critical
  130  interrupted`,
		Example: `  reprise runs list --status FAILED; test $? -eq 3 && echo 'nothing failed'`,
	}
}

// exitError is an error that knows its exit code.
type exitError struct {
	code int
	err  error // nil: nothing more to print
}

func (e exitError) Error() string { return fmt.Sprint(e.err) }
func (e exitError) Unwrap() error { return e.err }

// usage marks an error of the person who typed the command.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return exitError{exitUsage, err}
}

// nothing returns the error for an empty result or selection.
func nothing(format string, args ...any) error {
	return exitError{exitNothing, fmt.Errorf(format, args...)}
}

var passwords = regexp.MustCompile(`(://[^:/@\s]*:)[^\s]*@`)

// redact removes passwords from the text of an error, except from the URLs that show
// the syntax.
func redact(text string) string {
	return strings.ReplaceAll(passwords.ReplaceAllString(text, "${1}…@"), "postgres://user:…@host:5432/", "postgres://user:password@host:5432/")
}

// privilege says what to do if the database refuses a statement for lack of a privilege
// (SQLSTATE 42501).
func privilege(err error) string {
	var postgres interface{ SQLState() string }
	if errors.As(err, &postgres) && postgres.SQLState() == "42501" {
		return ": the role of the database URL may not do this: use another role, or grant what docs/postgres.md lists"
	}
	return ""
}

// report prints an error for people, and returns the exit code.
func (a *app) report(ctx context.Context, command *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	var known exitError
	code := exitFailed
	switch {
	case errors.As(err, &known):
		code = known.code
	case ctx.Err() != nil:
		code, err = exitInterrupted, errors.New("interrupted")
	case errors.Is(err, store.ErrNotFound):
		code = exitNothing
	}
	if known.err == nil && code == known.code {
		return code
	}
	fmt.Fprintf(a.stderr, "reprise: %s%s\n", redact(strings.ReplaceAll(err.Error(), "\n", "\n  ")), privilege(err))
	if code == exitUsage && command != nil {
		fmt.Fprintf(a.stderr, "See %s --help.\n", command.CommandPath())
	}
	return code
}
