package sqldb

import (
	"bytes"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
)

// goroutines is the set of goroutines that have an exclusive transaction open. A
// context cannot identify them: the context of the transaction's code is also its
// callers' context, and belongs to other goroutines, too, which may wait.
type goroutines struct {
	n   atomic.Int64
	ids sync.Map
}

// enter adds the calling goroutine until leave is called, by any goroutine.
func (g *goroutines) enter() (leave func()) {
	id, ok := goroutineID()
	if !ok {
		return func() {}
	}
	g.ids.Store(id, nil)
	g.n.Add(1)
	return sync.OnceFunc(func() {
		g.ids.Delete(id)
		g.n.Add(-1)
	})
}

// here reports whether the calling goroutine is in the set. It costs nothing while the
// set is empty.
func (g *goroutines) here() bool {
	if g.n.Load() == 0 {
		return false
	}
	id, ok := goroutineID()
	if !ok {
		return false
	}
	_, here := g.ids.Load(id)
	return here
}

// goroutineID reads the first line of the goroutine's stack trace, "goroutine 12
// [running]:". No id is used twice.
func goroutineID() (id uint64, ok bool) {
	var trace [64]byte
	line := trace[:runtime.Stack(trace[:], false)]
	line, ok = bytes.CutPrefix(line, []byte("goroutine "))
	digits, _, found := bytes.Cut(line, []byte(" "))
	id, err := strconv.ParseUint(string(digits), 10, 64)
	return id, ok && found && err == nil
}
