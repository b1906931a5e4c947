package handlers

import "reflect"

// Named is an event that says what it is called, such as "user.signed_up". The
// name is its topic: it stays what it is when the type is renamed or moved.
type Named interface {
	EventName() string
}

// EventName returns the name of an event, given as a value, a pointer or a
// pointer to a pointer, nil or not; it is "" when the event is not Named.
func EventName(event any) string {
	if named, ok := pointerTo(event).(Named); ok {
		return named.EventName()
	}
	return ""
}

// pointerTo returns a pointer to the event, whose methods are all that the event
// has. Of a value, it points to a copy; of a pointer to a pointer, it is the last
// one; in place of a nil pointer, it points to a zero event. Of nil, it is nil.
func pointerTo(event any) any {
	v := reflect.ValueOf(event)
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v = reflect.New(v.Type().Elem())
		}
		if v.Elem().Kind() != reflect.Pointer {
			return v.Interface()
		}
		v = v.Elem()
	}
	if !v.IsValid() {
		return nil
	}
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	return p.Interface()
}

// isNil says whether the event is nil, a nil pointer, or a pointer to one.
func isNil(event any) bool {
	v := reflect.ValueOf(event)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	return !v.IsValid() || v.Kind() == reflect.Pointer
}
