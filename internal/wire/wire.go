// Package wire has the shapes of the record in JSON: of "reprise -o json", of exported
// runs, and of any other program that shows the record. Programs rely on the names and
// on what is null: a name may be added, and none may go or change its meaning.
//
// store.Count, store.Filter, store.OutboxFilter, health.Finding and replay.Plan are
// their own shapes.
package wire

import "time"

// timeOf returns a time in UTC; nil, which is null, for the zero time.
func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// numberOf returns a number; nil, which is null, for 0.
func numberOf(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

// listOf returns the shapes of a list. An empty list is [], never null.
func listOf[T, Shape any](list []T, of func(T) Shape) []Shape {
	shapes := make([]Shape, len(list))
	for i, value := range list {
		shapes[i] = of(value)
	}
	return shapes
}
