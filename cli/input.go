package cli

import (
	"context"
	"io"
)

// input is the standard input, which stops when ctx ends. A read that is under
// way then is left to the end of the process: nothing else ends it.
func (a *app) input(ctx context.Context) io.Reader { return &input{ctx: ctx, from: a.stdin} }

type input struct {
	ctx  context.Context
	from io.Reader
}

type chunk struct {
	bytes []byte
	err   error
}

func (in *input) Read(p []byte) (int, error) {
	if err := in.ctx.Err(); err != nil {
		return 0, err
	}
	read := make(chan chunk, 1)
	own := make([]byte, len(p))
	go func() {
		n, err := in.from.Read(own)
		read <- chunk{own[:n], err}
	}()
	select {
	case <-in.ctx.Done():
		return 0, in.ctx.Err()
	case got := <-read:
		return copy(p, got.bytes), got.err
	}
}
