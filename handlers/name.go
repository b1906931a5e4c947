package handlers

// Named is an event that says what it is called, such as "user.signed_up". The
// name is its topic: it stays what it is when the type is renamed or moved.
type Named interface {
	EventName() string
}

// EventName returns the name of an event, given as a value, a pointer or a
// pointer to a pointer, nil or not; it is "" when the event is not Named.
func EventName(event any) string {
	if named, ok := addressed(event).(Named); ok {
		return named.EventName()
	}
	return ""
}
