package cli

import (
	"fmt"
	"time"

	"github.com/reprise-bus/reprise/internal/wire"
	"github.com/reprise-bus/reprise/store"
)

// statusOf returns a run's status for people.
func statusOf(r store.Run, now time.Time) cell {
	view := wire.View(r, now)
	if view == wire.Scheduled {
		view += " " + at(r.DueAt, now)
	}
	return statusCell(r.Status, view)
}

func statusCell(status store.Status, view string) cell {
	text := string(status)
	if view != "" {
		text = fmt.Sprintf("%s (%s)", status, view)
	}
	return cell{text, map[store.Status]colour{store.Failed: red, store.Success: green, store.Pending: yellow, store.Discarded: plain}[status]}
}
