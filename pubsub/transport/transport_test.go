package transport_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/pubsub"
	"github.com/reprise-bus/reprise/pubsub/transport"
)

func TestAURLNamesATransport(t *testing.T) {
	for url, want := range map[string]struct {
		name string
		mode pubsub.Mode
	}{
		"kafka://h1:9092,h2:9092":                       {"kafka", ""},
		"kafka://host:9092?mode=database&client_id=app": {"kafka", pubsub.ViaDatabase},
		"nats://host:4222?mode=hold":                    {"nats", pubsub.Hold},
		"NATS://host:4222":                              {"nats", ""},
	} {
		got, err := transport.Open(url, nil)
		require.NoError(t, err, url)
		require.Equal(t, want.name, got.Name)
		require.Equal(t, want.mode, got.Mode)
		require.NoError(t, got.Validate())
	}
	for _, none := range []string{"", "database:"} {
		got, err := transport.Open(none, nil)
		require.NoError(t, err)
		require.Nil(t, got)
	}
}

func TestAURLThatIsWrongShowsNoPassword(t *testing.T) {
	for url, want := range map[string]string{
		"kafka://ada:secret@host:9092?mode=later":       `mode "later": want direct, outbox, hold, database`,
		"kafka://ada:secret@host:9092?colour=red":       "colour",
		"nats://ada:secret@host:4222?colour=red":        "colour",
		"redis://ada:secret@host:6379":                  `begins with "redis:": want kafka://host:9092`,
		"://ada:secret@host":                            "cannot be read",
		"kafka://ada:secret@host:port":                  "",
		"kafka://ada:secret@h1:9092,bob:secret@h2:9092": "names a user after a comma: name the user once, before the first host",
		"kafka://h1:9092,ada:secret@h2:9092":            "names a user after a comma",
		"nats://ada:secret@h1:4222,bob:secret@h2:4222":  "names a user after a comma",
		"nats://ada:sec/secret@host:4222":               "",
		"kafka://":                                      "",
	} {
		_, err := transport.Open(url, nil)
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "secret", url)
	}
}

func TestTheEnvironmentDecides(t *testing.T) {
	t.Setenv(transport.Variable, "")
	none, err := transport.FromEnv()
	require.NoError(t, err)
	require.Nil(t, none)
	t.Setenv(transport.Variable, "nats://127.0.0.1:4222")
	carrier, err := transport.FromEnv()
	require.NoError(t, err)
	require.Equal(t, "nats", carrier.Name)
	t.Setenv(transport.Variable, "fax://1")
	_, err = transport.FromEnv()
	require.ErrorContains(t, err, transport.Variable+": ")
}
