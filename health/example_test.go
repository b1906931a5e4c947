package health_test

import (
	"context"
	"fmt"
	"log"

	"github.com/reprise-bus/reprise/bus"
	"github.com/reprise-bus/reprise/health"
)

// A health endpoint answers with the worst finding.
func ExampleExamine() {
	ctx := context.Background()
	b, err := bus.Open(ctx, "sqlite::memory:", bus.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	findings, err := health.Examine(ctx, b.Store(), health.Limits{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(health.Worst(findings))
	for _, f := range findings {
		if f.Severity != health.OK {
			fmt.Printf("%s %s: %s\n", f.Severity, f.Check, f.Text)
		}
	}
	// Output:
	// CRIT
	// CRIT instances: none is alive
}
