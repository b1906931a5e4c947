package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/sourcecontextpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/reprise-bus/reprise/internal/queue"
	"github.com/reprise-bus/reprise/store"
)

// An application's own binary shows payloads of protobuf as JSON, and edits them so;
// what does not decode is shown as it is, with the reason.
func TestBinaryPayloadsAreLegibleWithTheApplicationsMarshaler(t *testing.T) {
	const orders = "sourcecontextpb.SourceContext"
	config := Config{Marshaler: cqrs.ProtoMarshaler{}, Events: []any{&sourcecontextpb.SourceContext{}, (*durationpb.Duration)(nil)}}
	eachDB(t, func(t *testing.T, db *db) {
		own := func(env map[string]string, args ...string) result {
			all := map[string]string{"REPRISE_DATABASE_URL": db.url}
			for k, v := range env {
				all[k] = v
			}
			var out, errs bytes.Buffer
			code := exec(t.Context(), config, strings.NewReader(""), &out, &errs, args, func(name string) string { return all[name] })
			return result{t, code, out.String(), errs.String()}
		}
		failed := func(topic, id string, payload []byte) string {
			require.NoError(t, db.Subscribe(t.Context(), store.Subscription{Topic: topic, Handler: "h"}, ""))
			run, err := db.Record(t.Context(), store.Event{ID: id, Topic: topic, Payload: payload, Source: "test"}, "h", "host/1/abc", false)
			require.NoError(t, err)
			_, err = db.End(t.Context(), []queue.Outcome{{Lease: queue.LeaseOf(run), Status: store.Failed, Failure: store.NewFailure("h", store.KindPanic, "no")}})
			require.NoError(t, err)
			return fmt.Sprint(run.ID)
		}
		payload, err := proto.Marshal(&sourcecontextpb.SourceContext{FileName: "ada.proto"})
		require.NoError(t, err)
		id := failed(orders, "whole", payload)

		require.Contains(t, own(nil, "runs", "show", id, "--payload").ok().out, "\"fileName\": \"ada.proto\"\n}\n(decoded from 11 bytes of sourcecontextpb.SourceContext")
		require.Contains(t, own(nil, "events", "show", "whole", "--payload").ok().out, `"fileName": "ada.proto"`)
		require.NotContains(t, db.reprise("events", "show", "whole", "--payload").ok().out, "fileName", "the stock binary knows no types")
		var shown struct {
			Events []struct {
				Event struct {
					Base64  []byte            `json:"payload_base64"`
					Decoded map[string]string `json:"payload_decoded"`
					Error   string            `json:"payload_decode_error"`
				}
			}
		}
		own(nil, "events", "show", "whole", "--payload", "-o", "json").ok().json(&shown)
		require.Equal(t, payload, shown.Events[0].Event.Base64)
		require.Equal(t, map[string]string{"fileName": "ada.proto"}, shown.Events[0].Event.Decoded)

		// Nothing is lost: of what the type does not know, no edit.
		change := editor(t, `sed -i.bak s/ada/grace/ "$2"`)
		newer := failed(orders, "newer", append(bytes.Clone(payload), 0x78, 0x01))
		own(change, "runs", "edit", newer, "--yes").fails(exitFailed, "does not know, such as a newer field")
		own(editor(t, `echo '{"filName":"x"}' > "$2"`), "runs", "edit", id, "--yes").fails(exitFailed, "does not become a payload")
		own(editor(t, "true"), "runs", "edit", id, "--yes").fails(exitNothing, "nothing changes")
		r := own(change, "runs", "edit", id, "--yes", "-o", "json").ok()
		require.Contains(t, r.errs, `+   "fileName": "grace.proto"`)
		var done struct{ Event string }
		r.json(&done)
		e, err := db.Event(t.Context(), orders, done.Event)
		require.NoError(t, err)
		var corrected sourcecontextpb.SourceContext
		require.NoError(t, proto.Unmarshal(e.Payload, &corrected))
		require.Equal(t, "grace.proto", corrected.FileName)

		// What is published or edited is what the handlers decode.
		event := func(id string) string {
			e, err := db.Event(t.Context(), orders, id)
			require.NoError(t, err)
			var is sourcecontextpb.SourceContext
			require.NoError(t, proto.Unmarshal(e.Payload, &is))
			return is.FileName
		}
		own(nil, "publish", orders, `{"fileName":"json"}`, "--id", "of json").ok()
		require.Equal(t, "json", event("of json"))
		own(nil, "publish", orders, `{"fileName":"of {key}"}`, "--keys", "1,2", "--id", "k{key}").ok()
		require.Equal(t, "of 2", event("k2"))
		own(nil, "publish", orders, string(payload), "--id", "of bytes").ok()
		require.Equal(t, "ada.proto", event("of bytes"))
		own(nil, "publish", "elsewhere", `{"any":"thing"}`).ok()
		own(nil, "publish", orders, `{"filName":"x"}`).fails(exitFailed, `the payload is no sourcecontextpb.SourceContext, the event of topic "sourcecontextpb.SourceContext"`)
		own(nil, "publish", orders, `{"filName":"{key}"}`, "--keys", "1,2").fails(exitFailed, "nothing was published")
		typed := failed(orders, "typed in as JSON", []byte(`{"fileName":"ada.proto"}`))
		own(change, "runs", "edit", typed, "--yes", "-o", "json").ok().json(&done)
		require.Equal(t, "grace.proto", event(done.Event))

		broken, other := failed(orders, "broken", []byte{0xff}), failed("elsewhere", "other", []byte{0xff})
		require.Regexp(t, `1 bytes that are not text.*\n\(not decoded: .+`, own(nil, "runs", "show", broken, "--payload").ok().out)
		require.Contains(t, own(nil, "runs", "show", other, "--payload").ok().out, `(not decoded: cli.Config.Events has no event of topic "elsewhere")`)
		own(nil, "events", "show", "other", "--payload", "-o", "json").ok().json(&shown)
		require.Contains(t, shown.Events[0].Event.Error, "elsewhere")
	})
}

func TestAConfigOfTheCommandLineSaysWhatIsWrong(t *testing.T) {
	for want, config := range map[string]Config{
		"Events without a Marshaler":  {Events: []any{signedUp{}}},
		"Events[1]: the event is nil": {Marshaler: cqrs.ProtoMarshaler{}, Events: []any{&wrapperspb.BoolValue{}, nil}},
		`have the topic "same"`: {
			Marshaler: cqrs.JSONMarshaler{GenerateName: func(any) string { return "same" }}, Events: []any{1, "text"},
		},
	} {
		var errs bytes.Buffer
		require.Equal(t, exitFailed, exec(t.Context(), config, nil, &errs, &errs, []string{"version"}, func(string) string { return "" }))
		require.Contains(t, errs.String(), want)
	}
}
