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
	v := reflect.ValueOf(event)
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v = reflect.New(v.Type().Elem())
		}
		if v.Elem().Kind() != reflect.Pointer {
			break
		}
		v = v.Elem()
	}
	if !v.IsValid() {
		return ""
	}
	if v.Kind() != reflect.Pointer { // the method may be the pointer's
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		v = p
	}
	if named, ok := v.Interface().(Named); ok {
		return named.EventName()
	}
	return ""
}
