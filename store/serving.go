package store

import (
	"slices"
	"strings"
)

// Serving returns the Handlers of an instance that serves the subscriptions: the name
// of each handler, and "name<tab>topic" for each of its topics. Processes of earlier
// versions read and write only the names.
func Serving(subs []Subscription) []string {
	all := make([]string, 0, 2*len(subs))
	for _, sub := range subs {
		all = append(all, sub.Handler, sub.served())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// separator occurs in no name.
const separator = "\t"

func (sub Subscription) served() string { return sub.Handler + separator + sub.Topic }

// Serves reports whether the instance passes due runs of the subscription to its
// handler. A process of an earlier version names no topics and serves all topics of its
// handlers.
func (l *InstanceState) Serves(sub Subscription) bool {
	if !l.Alive() || l.Stuck() || !slices.Contains(l.Handlers, sub.Handler) {
		return false
	}
	topics := slices.ContainsFunc(l.serving, func(entry string) bool { return strings.HasPrefix(entry, sub.Handler+separator) })
	return !topics || slices.Contains(l.serving, sub.served())
}
