package wire

import (
	"time"

	"github.com/reprise-bus/reprise/store"
)

// Group is a failure group.
type Group struct {
	Group   string      `json:"group"`
	Handler string      `json:"handler"`
	Kind    store.Kind  `json:"error_kind"`
	Error   string      `json:"error"`
	Runs    store.Count `json:"runs"`
	First   *time.Time  `json:"first_at"`
	Last    *time.Time  `json:"last_at"`
	Oldest  int64       `json:"oldest"`
	Newest  int64       `json:"newest"`
}

// NewGroup returns the shape of a failure group.
func NewGroup(g store.Group) Group {
	return Group{g.Fingerprint, g.Handler, g.Kind, g.Error, g.Runs, timeOf(g.First), timeOf(g.Last), g.Oldest, g.Newest}
}

// Groups is the failure groups of a selection.
type Groups struct {
	Groups   []Group `json:"groups"`
	More     bool    `json:"more"`     // there are more groups
	Among    int64   `json:"among"`    // only so many of the newest FAILED runs were looked at; 0: all
	Counting bool    `json:"counting"` // failures from before an upgrade are still being counted
}

// NewGroups returns the shape of the failure groups of a selection.
func NewGroups(g store.Grouping) Groups {
	return Groups{listOf(g.Groups, NewGroup), g.More, g.Among, g.Counting}
}
