package handlers

import "reflect"

// Named is an event with a name, such as "user.signed_up". The name is its topic. Keep it
// when the type is renamed or moved.
type Named interface {
	EventName() string
}

// EventName returns the name of an event, given as a value, a pointer or a pointer to a
// pointer, nil or not. It returns "" if the event is not Named.
func EventName(event any) string {
	if named, ok := pointerTo(event).(Named); ok {
		return named.EventName()
	}
	return ""
}

// pointerTo returns a pointer to the event, which has all methods of the event. For a
// value it points to a copy. For a pointer to a pointer it is the innermost pointer. For
// a nil pointer it points to a zero event. For nil it is nil.
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

// isNil reports whether the event is nil, a nil pointer, or a pointer to a nil pointer.
func isNil(event any) bool {
	v := reflect.ValueOf(event)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	return !v.IsValid() || v.Kind() == reflect.Pointer
}
