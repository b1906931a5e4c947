//go:build !unix

package beside

import "os"

// Guard removes dir on release, unless keep was called before. Where there is
// no Unix, a server ends with this process only if this process ends by itself.
func Guard(dir, _ string) (keep, release func(), err error) {
	kept := false
	keep = func() { kept = true }
	release = func() {
		if !kept {
			_ = os.RemoveAll(dir)
		}
	}
	return keep, release, nil
}
