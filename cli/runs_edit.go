package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/internal/visible"
	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// editing is the flags of edit.
type editing struct {
	request
	file     string // "" means an editor
	metadata metadataFlag
	max      maxPayload
}

func runsEditCommand(a *app) *cobra.Command {
	var e editing
	c := &cobra.Command{
		Use:   "edit RUN",
		Short: "Correct the event of a run that failed, and run it",
		Long: `Give the handler of a run that is FAILED or DISCARDED a corrected event instead:
a new event that amends the old one, with a run for this handler alone. The old
run is discarded; history stays as it was.

It opens $VISUAL, or $EDITOR, on the payload: a program, or what a shell takes,
such as '"/opt/my editor" --wait'. With --payload the new one is in a
file, or - for what is read, byte for byte; with --metadata alone it stays.`,
		Example: `  reprise runs edit 17
  reprise runs edit 17 --payload corrected.json --reason 'postcode was missing' --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := parseRun(args[0])
			if err != nil {
				return err
			}
			if err := e.max.check(); err != nil {
				return usage(err)
			}
			return a.toWrite(c.Context(), false, func(st *store.Store) error { return a.edit(c.Context(), st, id, e) })
		},
	}
	e.add(c)
	e.max.add(c)
	c.Flags().StringVar(&e.file, "payload", "", "file with the new payload, - to read it")
	c.Flags().Var(&e.metadata, "metadata", "an entry of the new metadata, instead of all there was; may be given again")
	return c
}

func (a *app) edit(ctx context.Context, st *store.Store, id int64, e editing) error {
	run, err := st.Run(ctx, id)
	if err != nil {
		return err
	}
	if run.Status != store.Failed && run.Status != store.Discarded {
		return fmt.Errorf("run %d is %s: only what is %s or %s is corrected", id, run.Status, store.Failed, store.Discarded)
	}
	event, err := st.Event(ctx, run.Topic, run.EventID)
	if err != nil {
		return err
	}
	correction := store.Correction{Metadata: e.metadata, MaxPayload: max(e.max.bytes(), len(event.Payload))}
	switch {
	case e.file != "":
		correction.Payload, err = e.max.read(ctx, a, e.file)
	case e.metadata == nil:
		correction.Payload, err = a.editEvent(ctx, event)
	}
	if err != nil {
		return err
	}
	changed := a.whatChanges(event, correction)
	if changed == "" {
		return nothing("nothing changes; nothing was done")
	}
	a.say("%s", lines(strings.TrimSuffix(changed, "\n")))
	if err := a.confirm(ctx, e.yes, fmt.Sprintf("Run %s on the corrected event, and discard run %d?", run.Handler, id)); err != nil {
		return err
	}
	o, made, err := replay.Edit(ctx, st, id, correction, e.request.request(nil))
	if err != nil {
		return err
	}
	return a.print(wire.NewEdited(o, made), func(out io.Writer) {
		fmt.Fprintln(out, sentence("Run %d is discarded, and run %d is due instead, on event %s.\nreprise runs show %d", id, made.ID, made.EventID, made.ID))
	})
}

// whatChanges returns the changes of the correction; "" for none.
func (a *app) whatChanges(e store.Event, c store.Correction) string {
	var out strings.Builder
	if c.Payload != nil && !bytes.Equal(c.Payload, e.Payload) {
		was, is := a.payloadText(e, e.Payload), a.payloadText(e, c.Payload)
		out.WriteString(cmp.Or(diff(was, is), "~ the payload, by what is not shown\n"))
	}
	if c.Metadata != nil && !maps.Equal(c.Metadata, e.Metadata) {
		out.WriteString("metadata:\n" + diff(entries(e.Metadata), entries(c.Metadata)))
	}
	return out.String()
}

func entries(metadata map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(metadata)) {
		all = append(all, visible.Line(k+"="+metadata[k]))
	}
	return strings.Join(all, "\n")
}

// editorCommand returns the command for an editor: a program, which may have a space in
// its path, or a shell command with arguments, quotes and variables. Windows has no
// such shell: there, the text is split into words.
func editorCommand(ctx context.Context, editor, file string) *osexec.Cmd {
	program, err := osexec.LookPath(editor)
	switch {
	case err == nil:
		return osexec.CommandContext(ctx, program, file)
	case runtime.GOOS == "windows":
		words := strings.Fields(editor)
		return osexec.CommandContext(ctx, words[0], append(words[1:], file)...)
	}
	return osexec.CommandContext(ctx, "sh", "-c", editor+` "$@"`, "sh", file)
}

// editEvent opens an editor on the payload, decoded if possible, and returns the edited
// payload.
func (a *app) editEvent(ctx context.Context, e store.Event) ([]byte, error) {
	is := a.decoder.Decode(e, e.Payload)
	shown := e.Payload
	if is.JSON != nil && is.Err == nil {
		shown = is.JSON
	}
	edited, err := a.editPayload(ctx, shown)
	if err != nil || bytes.Equal(edited, shown) {
		return e.Payload, err
	}
	var payload []byte
	if is.JSON != nil && is.Err == nil {
		payload, err = a.decoder.Encode(e, is, edited)
	} else {
		payload, err = a.decoder.Written(e.Topic, edited)
	}
	if err != nil {
		file, kept := a.keep(edited)
		return nil, errors.Join(fmt.Errorf("what was written does not become a payload: %w; it is kept in %s", err, file), kept)
	}
	return payload, nil
}

// keep writes the edited text into a file.
func (a *app) keep(edited []byte) (file string, err error) {
	f, err := os.CreateTemp(a.getenv("TMPDIR"), "reprise-edit-*.json")
	if err != nil {
		return "", err
	}
	_, err = f.Write(edited)
	return f.Name(), errors.Join(err, f.Close())
}

// editPayload opens an editor on the payload, and returns the edited payload; JSON is
// compacted.
func (a *app) editPayload(ctx context.Context, payload []byte) ([]byte, error) {
	editor := strings.TrimSpace(cmp.Or(a.getenv("VISUAL"), a.getenv("EDITOR")))
	text, isJSON := indent(payload)
	switch {
	case editor == "":
		return nil, usage(errors.New("no editor is known: set VISUAL or EDITOR, or give the new payload with --payload FILE"))
	case !isJSON && !utf8.Valid(payload):
		return nil, usage(errors.New("the payload is not text: give the new one with --payload FILE"))
	case !isJSON:
		text = string(payload)
	}
	dir, err := os.MkdirTemp(a.getenv("TMPDIR"), "reprise-edit-")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "payload.json")
	if !isJSON {
		file = filepath.Join(dir, "payload.txt")
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	command := editorCommand(ctx, editor, file)
	command.Stdin, command.Stdout, command.Stderr = a.stdin, a.stdout.to, a.stderr.to
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("editor %s: %w; what it wrote is in %s", editor, err, file)
	}
	edited, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if string(edited) == text || isJSON && strings.TrimSpace(string(edited)) == text {
		return payload, os.RemoveAll(dir)
	}
	if isJSON {
		var compact bytes.Buffer
		if err := json.Compact(&compact, edited); err != nil {
			return nil, fmt.Errorf("what was written is not JSON: %w; it is kept in %s, for --payload", err, file)
		}
		edited = compact.Bytes()
	}
	return edited, os.RemoveAll(dir)
}
