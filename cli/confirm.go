package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/reprise-bus/reprise/internal/words"
)

var errAnsweredNo = errors.New("nothing was done")

// confirm asks the user at the terminal, unless yes is set.
func (a *app) confirm(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	if _, ok := terminal(a.stdin); !ok {
		return usage(fmt.Errorf("%s There is no terminal to ask on: say --yes; nothing was done", question))
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", words.Line(question))
	answer, err := bufio.NewReader(a.input(ctx)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(a.stderr)
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errAnsweredNo
}
