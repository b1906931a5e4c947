package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/store"
)

// editor is the environment with an editor that is a shell script.
func editor(t *testing.T, script string) map[string]string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "editor")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	return map[string]string{"VISUAL": path + " --wait", "EDITOR": "/nonexistent", "TMPDIR": t.TempDir()}
}

func TestEdit(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		ids := db.failed("mail", 2)
		id := fmt.Sprint(ids[0])
		edit := func(env map[string]string, args ...string) result {
			return db.repriseWith(t.Context(), env, strings.NewReader(""), append([]string{"runs", "edit", id}, args...)...)
		}
		edit(nil).fails(exitUsage, "set VISUAL or EDITOR")
		edit(editor(t, "true"), "--yes").fails(exitNothing, "nothing changes")
		edit(editor(t, "exit 3"), "--yes").fails(exitFailed, "exit status 3; what it wrote is in")
		r := edit(editor(t, `echo '{"user":' > "$2"`), "--yes").fails(exitFailed, "what was written is not JSON")
		kept := r.errs[strings.Index(r.errs, "kept in ")+len("kept in ") : strings.Index(r.errs, ", for --payload")]
		require.FileExists(t, kept)
		change := editor(t, `sed -i.bak s/ada@/grace@/ "$2"`)
		edit(change).fails(exitUsage, "Run mail on the corrected event, and discard run 1? There is no terminal")
		require.Equal(t, store.Failed, db.status(ids[0]))

		r = edit(change, "--yes", "--reason", "typo", "-o", "json").ok()
		require.Contains(t, r.errs, "-   \"email\": \"ada@example.com\"\n+   \"email\": \"grace@example.com\"")
		left, err := os.ReadDir(change["TMPDIR"])
		require.NoError(t, err)
		require.Empty(t, left, "no payload stays behind")
		var done struct {
			Operation, Run int64
			Event          string
		}
		r.json(&done)
		e, err := db.Event(t.Context(), topic, done.Event)
		require.NoError(t, err)
		require.Equal(t, `{"user":{"id":0},"email":"grace@example.com"}`, string(e.Payload))
		require.Equal(t, "mail-failed-0", e.Amends)
		require.Equal(t, store.Discarded, db.status(ids[0]))
		require.Equal(t, store.Pending, db.status(done.Run))
		require.Contains(t, db.reprise("runs", "show", fmt.Sprint(done.Run)).ok().out, "typo")
		id = fmt.Sprint(done.Run)
		edit(change, "--yes").fails(exitFailed, "is PENDING: only what is FAILED or DISCARDED is corrected")

		id = fmt.Sprint(ids[1])
		file := filepath.Join(t.TempDir(), "payload")
		require.NoError(t, os.WriteFile(file, []byte("not JSON"), 0o600))
		edit(nil, "--payload", file+".none").fails(exitFailed, "no such file")
		r = edit(nil, "--payload", file, "--metadata", "name=corrected", "--yes").ok()
		require.Contains(t, r.errs, "+ not JSON")
		require.Contains(t, r.errs, "metadata:\n- name=user.signed_up\n+ name=corrected")
		require.Contains(t, r.out, "is due instead")
		id = "4711"
		edit(nil, "--yes").fails(exitNothing, "run 4711: not found")
		id = "first"
		edit(nil).fails(exitUsage, `run "first"`)
	})
}

func TestEditReadsThePayload(t *testing.T) {
	eachDB(t, func(t *testing.T, db *db) {
		db.subscribe("mail")
		id := fmt.Sprint(db.failed("mail", 1)[0])
		db.repriseWith(t.Context(), nil, strings.NewReader(" {}\n"), "runs", "edit", id, "--payload", "-", "--yes").ok()
		runs, err := db.Runs(t.Context(), store.Filter{Status: store.Pending})
		require.NoError(t, err)
		e, err := db.Event(t.Context(), topic, runs[0].EventID)
		require.NoError(t, err)
		require.Equal(t, " {}\n", string(e.Payload), "byte for byte")
		require.Equal(t, map[string]string{"name": "user.signed_up"}, e.Metadata)
	})
}

func TestDiff(t *testing.T) {
	t.Parallel()
	require.Empty(t, diff("a\nb", "a\nb"))
	require.Equal(t, "  b\n  c\n- d\n+ D\n  e\n  f\n", diff("a\nb\nc\nd\ne\nf\ng", "a\nb\nc\nD\ne\nf\ng"))
	require.Equal(t, "+ a\n  b\n", diff("b", "a\nb"))
	require.Equal(t, "- a\n- b\n+ c\n", diff("a\nb", "c"))
	large := strings.Repeat("x\n", 3000)
	require.Equal(t, 3000, strings.Count(diff("a\n"+large+"b", strings.Repeat("y\n", 3000)), "+ y"))
}
