package replay_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/internal/testdb"
	"github.com/reprise-bus/reprise/replay"
	"github.com/reprise-bus/reprise/store"
)

// awkward is payloads that a careless document would change.
var awkward = map[string]string{
	"JSON":                       `{"b":1,"a":[1.0,1e999,{}],"b":null}`,
	"null":                       `null`,
	"a string":                   `"abc"`,
	"a number without end":       `12345678901234567890.10`,
	"spaced":                     "{\n  \"a\": 1 }\n",
	"for HTML":                   `{"a":"<b>&\u003c` + "\u2028" + `"}`,
	"empty":                      "",
	"text":                       "Guten Tag,\r\n\x00ä\ufeff\ufffd\u2029",
	"no UTF-8":                   "\xff\xfe\x00",
	"JSON with no UTF-8":         "{\"a\":\"\xff\"}",
	"half a surrogate":           `"\ud800"`,
	"deeper than anybody writes": strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000),
	"as deep as goes":            strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000),
	"two values":                 "1\n2",
}

func TestARunIsExportedWithItsEventAndItsAttempts(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		event := store.Event{
			ID: "e", Topic: "topic", Key: "ada", Payload: []byte(`{"email":"ada@example.com","tags":["<new>"]}`),
			Metadata: map[string]string{"name": "user.signed_up", "correlation_id": "c"}, Source: "kafka.Subscriber",
		}
		run, err := queue.Of(st).Record(t.Context(), event, "handler", "instance", false)
		require.NoError(t, err)
		failure := store.NewFailure("handler", store.KindPanic, "panic: nil map")
		failure.Stack = "goroutine 1 [running]:\n\tmain.go:1"
		_, err = queue.Of(st).End(t.Context(), []queue.Outcome{{Lease: queue.LeaseOf(run), Status: store.Failed, Failure: failure}})
		require.NoError(t, err)

		exported, err := replay.Export(t.Context(), st, run.ID)
		require.NoError(t, err)
		got := reread(t, exported)
		require.Equal(t, exported, got)

		wantEvent, err := st.Event(t.Context(), "topic", "e")
		require.NoError(t, err)
		require.Equal(t, wantEvent, got.Event())
		wantRun, err := st.Run(t.Context(), run.ID)
		require.NoError(t, err)
		wantRun.Instance = "" // it means nothing elsewhere
		require.Equal(t, wantRun, got.Run())
		wantAttempts, err := st.Attempts(t.Context(), run.ID)
		require.NoError(t, err)
		require.Len(t, wantAttempts, 1)
		require.Equal(t, wantAttempts, got.Attempts())
	})
}

func TestWhatCannotBeExportedIsAnError(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		_, err := replay.Export(t.Context(), st, 4711)
		require.ErrorIs(t, err, store.ErrNotFound)
		require.ErrorContains(t, err, "run 4711")

		id := end(t, st, 1, store.Failed)[0]
		table := "reprise.events"
		if strings.HasPrefix(url, "sqlite:") {
			table = "reprise_events"
		}
		_, err = st.DB().ExecContext(t.Context(), "DELETE FROM "+table)
		require.NoError(t, err)
		_, err = replay.Export(t.Context(), st, id)
		require.ErrorContains(t, err, `its event "FAILED-0" of topic "topic" is no longer in the database`)
		require.NotErrorIs(t, err, store.ErrNotFound, "the run is there")
	})
}

func TestAPayloadOfAnyBytesSurvives(t *testing.T) {
	testdb.Each(t, func(t *testing.T, url string) {
		st := openStore(t, url)
		for name, payload := range awkward {
			run, err := queue.Of(st).Record(t.Context(), store.Event{ID: name, Topic: "topic", Payload: []byte(payload), Source: "test"}, "handler", "instance", false)
			require.NoError(t, err)
			exported, err := replay.Export(t.Context(), st, run.ID)
			require.NoError(t, err)
			require.Equal(t, payload, string(reread(t, exported).Event().Payload), name)

			marshalled, err := json.Marshal(exported)
			require.NoError(t, err)
			var again replay.Document
			require.NoError(t, json.Unmarshal(marshalled, &again))
			require.Equal(t, payload, string(again.Event().Payload), name)
		}
	})
}

// What can be read is there to be read, and stands under version control.
func TestADocumentReadsWell(t *testing.T) {
	t.Parallel()
	want := `{
  "reprise_export": 1,
  "run": {
    "id": 4711,
    "handler": "mail",
    "topic": "user.signed_up",
    "status": "FAILED",
    "attempt": 15,
    "tries": 5,
    "cycle": 2,
    "error_kind": "error",
    "error": "451 <down>",
    "fingerprint": "0123456789abcdef",
    "finished_at": "2025-03-01T12:00:00.123Z"
  },
  "event": {
    "id": "e",
    "topic": "user.signed_up",
    "key": "ada",
    "metadata": {
      "a": "1",
      "b": "2"
    },
    "source": "publish",
    "published_at": "2025-03-01T10:00:00Z",
    "payload": {
      "text": "a<b",
      "numbers": [
        1.0,
        2
      ]
    }
  },
  "attempts": [
    {
      "number": 15,
      "cycle": 2,
      "kind": "error",
      "message": "451 <down>",
      "instance": "i",
      "started_at": "2025-03-01T11:59:59Z",
      "finished_at": "2025-03-01T12:00:00.123Z"
    }
  ]
}
`
	d, err := replay.ReadDocument(strings.NewReader(want))
	require.NoError(t, err)
	require.Equal(t, `{"text":"a<b","numbers":[1.0,2]}`, string(d.Event().Payload))
	require.Equal(t, want, write(t, d))
}

func TestOnlyADocumentIsRead(t *testing.T) {
	t.Parallel()
	with := func(old, new string) string {
		changed := strings.Replace(minimal, old, new, 1)
		require.NotEqual(t, minimal, changed)
		return changed
	}
	_, err := replay.ReadDocument(strings.NewReader(minimal))
	require.NoError(t, err)
	for document, want := range map[string]string{
		``:                             "unexpected end of JSON input",
		`[]`:                           "cannot unmarshal array",
		`{"run": {}}`:                  `it has no field "reprise_export"`,
		minimal + `{}`:                 "after top-level value",
		"\xff" + minimal:               "not valid UTF-8",
		with(`: 1,`, `: 2,`):           `field "reprise_export" 2: this program reads version 1`,
		with(`: 1,`, `: "1",`):         `field "reprise_export" "1": this program reads version 1`,
		with(`"status"`, `"stauts"`):   `unknown field "stauts"`,
		with(`FAILED`, `failed`):       `status "failed": want one of`,
		with(`"mail"`, `""`):           "the run names no handler",
		with(`"mail"`, `7`):            "cannot unmarshal number",
		with(`"e"`, `""`):              "id is empty",
		with(`"topic": "t"`, `"x": 1`): `unknown field "x"`,
		with(`"topic": "t", "payload"`, `"topic": "u", "payload"`): `the run is of topic "t", and its event of topic "u"`,
		with(`"payload": 1`, `"key": ""`):                          "the event has 0 payloads",
		with(`"payload": 1`, `"payload_text": null`):               "the event has 0 payloads",
		with(`"payload": 1`, `"payload": 1, "payload_text": "1"`):  "the event has 2 payloads",
		with(`"payload": 1`, `"payload_base64": "%"`):              "illegal base64",
	} {
		_, err := replay.ReadDocument(strings.NewReader(document))
		require.ErrorContains(t, err, want, document)
	}
}

func TestAReaderThatFailsIsReported(t *testing.T) {
	t.Parallel()
	_, err := replay.ReadDocument(io.MultiReader(strings.NewReader(minimal), failing{}))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

const minimal = `{"reprise_export": 1, "run": {"handler": "mail", "topic": "t", "status": "FAILED"}, "event": {"id": "e", "topic": "t", "payload": 1}}`

// What is read is what is written, and read again.
func FuzzReadDocument(f *testing.F) {
	f.Add([]byte(minimal))
	for _, payload := range awkward {
		if len(payload) > 1000 { // the fuzzer would spend its time on making it smaller
			continue
		}
		text, err := json.Marshal(payload)
		require.NoError(f, err)
		f.Add([]byte(strings.Replace(minimal, `"payload": 1`, `"payload_text": `+string(text), 1)))
		f.Add([]byte(strings.Replace(minimal, `"payload": 1`, `"payload_base64": "`+base64.StdEncoding.EncodeToString([]byte(payload))+`"`, 1)))
		f.Add([]byte(strings.Replace(minimal, `"payload": 1`, `"payload": `+payload, 1)))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		d, err := replay.ReadDocument(bytes.NewReader(document))
		if err != nil {
			return
		}
		again := reread(t, d)
		require.Equal(t, string(d.Event().Payload), string(again.Event().Payload))
		require.Equal(t, write(t, d), write(t, again))
	})
}

// Bytes of any kind, in a document that is written by hand.
func FuzzDocumentPayload(f *testing.F) {
	for _, payload := range awkward {
		if len(payload) <= 1000 {
			f.Add([]byte(payload))
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := replay.ReadDocument(strings.NewReader(strings.Replace(minimal, `"payload": 1`,
			`"payload_base64": "`+base64.StdEncoding.EncodeToString(payload)+`"`, 1)))
		require.NoError(t, err)
		require.Equal(t, string(payload), string(reread(t, d).Event().Payload))
		marshalled, err := json.Marshal(d)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(marshalled, &d))
		require.Equal(t, string(payload), string(d.Event().Payload))
	})
}

func write(t *testing.T, d replay.Document) string {
	t.Helper()
	var b strings.Builder
	n, err := d.WriteTo(&b)
	require.NoError(t, err)
	require.EqualValues(t, b.Len(), n)
	return b.String()
}

func reread(t *testing.T, d replay.Document) replay.Document {
	t.Helper()
	again, err := replay.ReadDocument(strings.NewReader(write(t, d)))
	require.NoError(t, err)
	return again
}
