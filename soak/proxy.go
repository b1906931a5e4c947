package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// proxy stands between one process and the database. Its faults are called one
// at a time.
type proxy struct{ *toxiproxy.Proxy }

// startProxy listens on a free port and passes everything on to upstream.
func startProxy(name, upstream string) (proxy, error) {
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := proxy{toxiproxy.NewProxy(server, name, "127.0.0.1:0", upstream)}
	if err := p.Start(); err != nil {
		return p, fmt.Errorf("start the proxy of %s: %w", name, err)
	}
	return p, nil
}

// address is where the process finds it.
func (p proxy) address() string { return p.Listen }

// cut resets all connections and takes no new ones until down is over.
func (p proxy) cut(ctx context.Context, down time.Duration) error {
	p.Stop()
	pauseFor(ctx, down)
	if err := p.Start(); err != nil {
		return fmt.Errorf("start the proxy %s again: %w", p.Name, err)
	}
	return nil
}

// delay slows every connection down by latency, until lasting is over. What is
// on its way then arrives at once: with a latency longer than lasting it is a
// stall, after which statements arrive late.
func (p proxy) delay(ctx context.Context, latency, lasting time.Duration) error {
	for _, direction := range []string{"upstream", "downstream"} {
		toxic := fmt.Sprintf(`{"name": "delay_%s", "type": "latency", "stream": "%s", "attributes": {"latency": %d}}`, direction, direction, latency.Milliseconds())
		if _, err := p.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			return fmt.Errorf("delay the proxy %s: %w", p.Name, err)
		}
	}
	pauseFor(ctx, lasting)
	p.Toxics.ResetToxics(context.Background())
	return nil
}
