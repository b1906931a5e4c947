// Command reprise looks into the record of a Reprise database, and replays,
// discards and corrects what failed. An application that wants its own payloads
// shown makes a binary of its own of the package cli.
package main

import "github.com/reprise-bus/reprise/cli"

func main() { cli.Main(cli.Config{}) }
