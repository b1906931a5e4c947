package sqldb

import (
	"bytes"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
)

// goroutines is which of them have something open that excludes all others. A
// context cannot tell: that of a transaction's code is also its callers', and
// those of other goroutines that may well wait.
type goroutines struct {
	n   atomic.Int64
	ids sync.Map
}

// enter notes the calling goroutine until leave is called, by whichever.
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

// here says whether the calling goroutine is noted. It costs nothing while none
// is.
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

// goroutineID reads the first line of the goroutine's own trace, which is
// "goroutine 12 [running]:". No id is given twice.
func goroutineID() (id uint64, ok bool) {
	var trace [64]byte
	line := trace[:runtime.Stack(trace[:], false)]
	line, ok = bytes.CutPrefix(line, []byte("goroutine "))
	digits, _, found := bytes.Cut(line, []byte(" "))
	id, err := strconv.ParseUint(string(digits), 10, 64)
	return id, ok && found && err == nil
}
