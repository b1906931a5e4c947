package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/reprise-bus/reprise/store"
)

// maxPayload is a flag: the limit of an event's payload, in MiB.
type maxPayload int

func (m *maxPayload) add(c *cobra.Command) {
	*m = store.DefaultMaxPayload >> 20
	c.Flags().IntVar((*int)(m), "max-payload", int(*m), "how many MiB a payload may have")
}

func (m maxPayload) bytes() int { return int(m) << 20 }

func (m maxPayload) check() error {
	if m < 1 || m > 1023 { // PostgreSQL stores no value of 1 GiB
		return fmt.Errorf("--max-payload %d: want 1 to 1023 MiB", m)
	}
	return nil
}

// read reads a payload from a file, or from standard input for -. It reads no further
// than the limit.
func (m maxPayload) read(ctx context.Context, a *app, file string) ([]byte, error) {
	from := a.input(ctx)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	payload, err := io.ReadAll(io.LimitReader(from, int64(m.bytes())+1))
	if err == nil && len(payload) > m.bytes() {
		return nil, fmt.Errorf("the payload has more than %d MiB: keep large data elsewhere and publish where it is, or say --max-payload", m)
	}
	return payload, err
}

// input returns standard input, which ends when ctx ends. A read in progress then
// remains until the process ends, because nothing else can end it.
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
