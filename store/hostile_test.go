package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/operate"
	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/store"
)

// hostile are texts that one database or the other does not take as they are, that
// mean something in SQL, JSON or an array, or that are longer than what is kept.
var hostile = []string{
	"", "orders", "mail", "1", "\x00", "a\x00b", "\xff", "Zo\xeb", "\xed\xa0\x80", "\xf0\x9f", "\u0085", "\u202e", "\ufeff", "\u2028", "\x1b[31m", "\x7f",
	`\u0000`, `\ud83d`, `{"a":"\u0000"}`, `{"a":"\ud83d"}`, `NULL`, `null`, `'; --`, `"`, `\`, `{`, `},{`, `%s%d$1`, `*`, `a.b`, "e\u0301",
	strings.Repeat("é", 200), strings.Repeat("x", 9000), strings.Repeat("\xff", 1<<20),
}

// No text that a method of the store is given makes the database fail: the method
// keeps it, made keepable, or refuses it in words of its own.
func TestNoTextMakesTheDatabaseFail(t *testing.T) {
	t.Parallel()
	testdb.Each(t, func(t *testing.T, url string) {
		st := migrated(t, testdb.Open(t, url), "")
		require.NoError(t, queue.Of(st).Subscribe(t.Context(), store.Subscription{Topic: "orders", Handler: "mail"}, ""))
		require.NoError(t, queue.Of(st).Register(t.Context(), store.Instance{ID: "mail"}))
		fresh := []store.Event{{ID: "1", Topic: "orders", Payload: []byte(`{"a":{"b":1}}`)}}
		_, err := queue.Of(st).Insert(t.Context(), st.DB(), fresh, queue.LeaseOnInsert{})
		require.NoError(t, err)
		_, err = queue.Of(st).WriteOutbox(t.Context(), st.DB(), fresh, func(string) bool { return false })
		require.NoError(t, err)

		without := []string{
			"DB", "Database", // nothing
			"Conditions", "OutboxConditions", "CountOutgoing", // SQL
			"Await", // waits for a run
		}
		seed := uint64(1)                                    // the same in every run
		if other := os.Getenv("HOSTILE_SEED"); other != "" { // for whoever looks for more
			var err error
			seed, err = strconv.ParseUint(other, 10, 64)
			require.NoError(t, err)
		}
		for name, on := range methods(st) {
			if slices.Contains(without, name) {
				continue
			}
			for n := range uint64(25) {
				a := arguments{t: t, st: st, rand: rand.New(rand.NewPCG(seed, n))}
				err := a.call(on)
				if fromDatabase(err) {
					assert.NoError(t, err, "%s, seed %d, call %d", name, seed, n)
				}
				if err != nil {
					assert.Less(t, len(err.Error()), 64<<10, "%s, seed %d, call %d: %.200q", name, seed, n, err)
				}
			}
		}
	})
}

// method is one of a store, a queue or an operator.
type method struct {
	of   reflect.Value
	name string
}

// methods are those that run statements, by name.
func methods(st *store.Store) map[string]method {
	all := map[string]method{}
	for _, of := range []any{st, queue.Of(st), operate.On(st)} {
		for i := range reflect.TypeOf(of).NumMethod() {
			name := reflect.TypeOf(of).Method(i).Name
			all[name] = method{reflect.ValueOf(of), name}
		}
	}
	return all
}

// fromDatabase says whether an error is PostgreSQL's or SQLite's own.
func fromDatabase(err error) bool {
	if errors.Is(err, queue.ErrKnown) || errors.Is(err, store.ErrDuplicateID) { // in words of the store's
		return false
	}
	var postgres interface{ SQLState() string }
	var sqlite interface{ Code() int }
	return errors.As(err, &postgres) || errors.As(err, &sqlite)
}

// arguments makes what a method is called with.
type arguments struct {
	t    *testing.T
	st   *store.Store
	rand *rand.Rand
}

// call calls a method once, and returns its error.
func (a arguments) call(on method) error {
	method, _ := on.of.Type().MethodByName(on.name)
	var tx *sqlx.Tx
	in := []reflect.Value{on.of}
	for i := 1; i < method.Type.NumIn(); i++ {
		kind := method.Type.In(i)
		switch {
		case kind == reflect.TypeFor[context.Context]():
			in = append(in, reflect.ValueOf(a.t.Context()))
		case kind == reflect.TypeFor[*sql.Conn]():
			conn, err := a.st.DB().Conn(a.t.Context())
			require.NoError(a.t, err)
			defer conn.Close()
			in = append(in, reflect.ValueOf(conn))
		case kind == reflect.TypeFor[*sqlx.Tx](), kind.Kind() == reflect.Interface && reflect.TypeFor[*sqlx.Tx]().Implements(kind):
			var err error
			tx, err = a.st.DB().BeginTxx(a.t.Context(), nil)
			require.NoError(a.t, err)
			defer func() { _ = tx.Rollback() }()
			in = append(in, reflect.ValueOf(tx))
		default:
			in = append(in, a.make(kind))
		}
	}
	call := reflect.Value.Call
	if method.Type.IsVariadic() {
		call = reflect.Value.CallSlice
	}
	out := call(method.Func, in)
	for _, o := range out {
		if err, failed := o.Interface().(error); failed {
			return err
		}
	}
	return nil
}

// valid are values by which a hostile one gets further than to the first check.
var valid = map[reflect.Type][]string{
	reflect.TypeFor[store.Status]():        {"PENDING", "SUCCESS", "FAILED", "DISCARDED"},
	reflect.TypeFor[store.Kind]():          {"error", "panic"},
	reflect.TypeFor[store.OperationKind](): {"replay", "discard", "edit", "backfill", "send", "release", "drop", "publish"},
	reflect.TypeFor[store.OutgoingState](): {"PENDING", "HELD", "SENT", "REFUSED", "DROPPED"},
}

func (a arguments) make(kind reflect.Type) reflect.Value {
	v := reflect.New(kind).Elem()
	switch {
	case kind == reflect.TypeFor[time.Time]():
		if a.rand.IntN(2) == 0 {
			v.Set(reflect.ValueOf(time.Now().Add(time.Duration(a.rand.IntN(3)-1) * time.Hour)))
		}
		return v
	case kind == reflect.TypeFor[func([]store.Event) [][]store.Event]():
		v.Set(reflect.ValueOf(func(events []store.Event) [][]store.Event { return [][]store.Event{events} }))
		return v
	case kind == reflect.TypeFor[[]byte]():
		v.SetBytes([]byte(a.text()))
		return v
	}
	switch kind.Kind() {
	case reflect.String:
		if words := valid[kind]; words != nil && a.rand.IntN(10) > 0 {
			v.SetString(words[a.rand.IntN(len(words))])
		} else {
			v.SetString(a.text())
		}
	case reflect.Bool:
		v.SetBool(a.rand.IntN(2) == 0)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(int64(a.rand.IntN(3)))
	case reflect.Float64:
		v.SetFloat(float64(a.rand.IntN(2)))
	case reflect.Pointer:
		if a.rand.IntN(3) > 0 {
			v.Set(reflect.New(kind.Elem()))
			v.Elem().Set(a.make(kind.Elem()))
		}
	case reflect.Struct:
		for i := range kind.NumField() {
			if kind.Field(i).IsExported() && a.rand.IntN(3) > 0 {
				v.Field(i).Set(a.make(kind.Field(i).Type))
			}
		}
	case reflect.Slice:
		for range a.rand.IntN(3) {
			v.Set(reflect.Append(v, a.make(kind.Elem())))
		}
		if events, are := v.Interface().([]store.Event); are { // which must be unique
			if unique, err := queue.Together(events); err == nil {
				v.Set(reflect.ValueOf(unique))
			} else {
				v.Set(v.Slice(0, 1))
			}
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(kind))
		for range a.rand.IntN(3) {
			v.SetMapIndex(a.make(kind.Key()), a.make(kind.Elem()))
		}
	case reflect.Func:
		v.Set(reflect.MakeFunc(kind, func([]reflect.Value) (out []reflect.Value) {
			for i := range kind.NumOut() {
				out = append(out, reflect.Zero(kind.Out(i)))
			}
			return out
		}))
	default:
		a.t.Fatalf("make a %v: teach the test how", kind)
	}
	return v
}

func (a arguments) text() string {
	text := hostile[a.rand.IntN(len(hostile))]
	if a.rand.IntN(4) == 0 {
		text = fmt.Sprint(text, hostile[a.rand.IntN(len(hostile))])
	}
	return text
}
