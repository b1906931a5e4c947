package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

func runsExportCommand(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "export RUN",
		Short: "Write a run with its event as a document, to run it in a test",
		Long: `Write a run with its event and its failed attempts as a JSON document. It is as
confidential as the event's payload, which is part of it.`,
		Example: "  reprise runs export 17 -f testdata/run-17.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := parseRun(args[0])
			if err != nil {
				return err
			}
			return a.withStore(c.Context(), func(st *store.Store) error {
				document, err := replay.Export(c.Context(), st, id)
				if err != nil {
					return err
				}
				return a.writeDocument(document, file)
			})
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "the file to write, which must not be there; default: standard output")
	return c
}

func (a *app) writeDocument(document replay.Document, file string) (err error) {
	if file == "" || file == "-" {
		_, err := document.WriteTo(a.stdout)
		return err
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = document.WriteTo(out)
	return err
}
