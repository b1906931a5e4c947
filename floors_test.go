package reprise_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// DESIGN.md lists the packages floor by floor. A package imports packages of lower
// floors only, and nothing imports what is there for tests.
func TestPackagesImportLowerFloorsOnly(t *testing.T) {
	t.Parallel()
	const module = "github.com/reprise-bus/reprise"
	_, section, _ := strings.Cut(read(t, "DESIGN.md"), "## Which package holds what?\n")
	list, _, found := strings.Cut(section, "Each line is a floor.")
	require.True(t, found)
	floors := map[string]int{}
	for i, line := range strings.Split(strings.TrimSpace(list), "\n") {
		for name := range strings.SplitSeq(strings.TrimSpace(line), ", ") {
			require.NotContains(t, floors, name)
			floors[name] = i
		}
	}

	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	require.NoError(t, err)
	listed, arrows := 0, 0
	for packages := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := packages.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		from, production := floors[name]
		if !production {
			require.Regexp(t, `^(`+module+`|internal/(test|pg|kafka|beside|store).*)$`, name, "DESIGN.md has no floor for the package")
			continue
		}
		listed++
		for _, imported := range p.Imports {
			other, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			to, production := floors[other]
			require.True(t, production, "%s imports %s, which is there for tests", name, other)
			require.Greater(t, to, from, "%s imports %s, which is on no lower floor", name, other)
			arrows++
		}
	}
	require.Len(t, floors, listed, "DESIGN.md names packages that are not there")
	require.Greater(t, arrows, 50)
}
