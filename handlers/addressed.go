package handlers

import "reflect"

// addressed returns a pointer to the event, which is given as a value, a pointer, or
// a pointer to a pointer, nil or not. The pointer has all methods of the event, those
// with a pointer receiver too. Of nil it returns nil.
func addressed(event any) any {
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
