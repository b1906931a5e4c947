package cli_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/cli"
	"github.com/reprise-bus/reprise/handlers"
)

// An application whose events are protobuf builds a command line of its own, which
// shows them as JSON. Its func main is ownCommandLine.
func ExampleMain() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(dir)
	url := "sqlite:" + filepath.Join(dir, "app.db")
	b, err := bus.Open(ctx, url, bus.Config{Marshaler: cqrs.ProtoMarshaler{}})
	check(err)
	check(b.Handle(handlers.New("send-welcome-email", func(context.Context, *wrapperspb.StringValue) error { return nil })))
	check(b.Publish(ctx, wrapperspb.String("ada@example.com")))
	check(b.Close())

	shown := run(url, "runs", "show", "1", "--payload")
	_, payload, _ := strings.Cut(shown, "PAYLOAD")
	fmt.Println(strings.TrimSpace(payload))
	// Output:
	// "ada@example.com"
	// (decoded from 17 bytes of wrapperspb.StringValue; -o json has them, too)
}

func ownCommandLine() {
	cli.Main(cli.Config{
		Marshaler: cqrs.ProtoMarshaler{}, // that of bus.Config
		Events:    []any{&wrapperspb.StringValue{}},
	})
}

// run runs ownCommandLine as a process of its own, since it ends its process.
func run(databaseURL string, args ...string) string {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), asCommandLine+"=1", "REPRISE_DATABASE_URL="+databaseURL)
	out, err := c.CombinedOutput()
	check(err)
	return string(out)
}

const asCommandLine = "RUN_THE_COMMAND_LINE_OF_THE_EXAMPLE"

func init() { // before the tests
	if os.Getenv(asCommandLine) != "" {
		ownCommandLine()
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
