package store

import (
	"slices"
	"strings"
)

// Serving returns what an instance that serves the subscriptions has as its Handlers:
// the name of each handler, which is all that processes of earlier versions read and
// write, and the name again with each of its topics.
func Serving(subs []Subscription) []string {
	all := make([]string, 0, 2*len(subs))
	for _, sub := range subs {
		all = append(all, sub.Handler, sub.served())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// separator stands in no name.
const separator = "\t"

func (sub Subscription) served() string { return sub.Handler + separator + sub.Topic }

// Serves says whether the instance brings due runs of the subscription to its handler.
// A process of an earlier version, which names no topics, serves all of the handler's.
func (l *InstanceState) Serves(sub Subscription) bool {
	if !l.Alive() || l.Stuck() || !slices.Contains(l.Handlers, sub.Handler) {
		return false
	}
	topics := slices.ContainsFunc(l.serving, func(entry string) bool { return strings.HasPrefix(entry, sub.Handler+separator) })
	return !topics || slices.Contains(l.serving, sub.served())
}
