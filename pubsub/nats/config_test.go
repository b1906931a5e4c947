package nats_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/pubsub/nats"
)

func TestConfigNamesTheFieldThatIsWrong(t *testing.T) {
	t.Parallel()
	require.NoError(t, nats.Config{URL: "nats://localhost,tls://h2:4222,nats://a:b%2Cc@h3"}.Validate())
	for _, servers := range []string{"", "nats://h1,", "localhost:4222", "http://h1", "nats://", "nats://user:sec/ret@h1", "nats://user:secret@h1:secret"} {
		err := nats.Config{URL: servers}.Validate()
		require.ErrorContains(t, err, "field URL: server", servers)
		require.ErrorContains(t, err, "want nats://host:4222")
		require.NotContains(t, err.Error(), "sec")
	}
	err := nats.Config{URL: "nats://h", Token: "t", CredentialsFile: "f", Stream: "a.b", AckWait: -time.Second}.Validate()
	require.ErrorContains(t, err, "fields CredentialsFile and Token")
	require.ErrorContains(t, err, `field Stream "a.b"`)
	require.ErrorContains(t, err, "field AckWait -1s")
	_, err = nats.New(nats.Config{})
	require.ErrorContains(t, err, "nats: field URL")
	_, err = nats.New(nats.Config{URL: "nats://h", CredentialsFile: "there-is-none"})
	require.ErrorContains(t, err, "field CredentialsFile")
}

func TestParse(t *testing.T) {
	t.Parallel()
	parse := func(text string) (nats.Config, error) {
		u, err := url.Parse(text)
		require.NoError(t, err)
		return nats.Parse(u)
	}
	config, err := parse("nats://user:p%40ss%2C@h1:4222,h2:4222?name=shop&group_prefix=shop-&stream=ALL&creds=/run/creds&tls=true")
	require.NoError(t, err)
	require.NotNil(t, config.TLS)
	config.TLS = nil
	require.Equal(t, nats.Config{
		URL:  "nats://user:p%40ss%2C@h1:4222,nats://user:p%40ss%2C@h2:4222",
		Name: "shop", GroupPrefix: "shop-", Stream: "ALL", CredentialsFile: "/run/creds",
	}, config)
	config, err = parse("nats://h1?tls=false")
	require.NoError(t, err)
	require.Equal(t, nats.Config{URL: "nats://h1"}, config)

	for text, want := range map[string]string{
		"nats://h1?group=x":              `parameter "group": want one of name, group_prefix, stream, creds, tls`,
		"nats://h1?stream=a&stream=b":    `parameter "stream" is given 2 times`,
		"nats://h1?tls=maybe":            `parameter tls "maybe": want true or false`,
		"nats://h1?tls=%zz":              "the parameters are no query",
		"nats://u:secret@h1,u:secret@h2": "names a user for each of several hosts: name the user once",
		"nats://h1/orders":               "more than servers and parameters",
		"nats://user:secret@/?name=x":    "field URL: server 1 of 1",
		"nats://h1?stream=two%20words":   `field Stream "two words"`,
		"kafka://user:secret@h1:9092":    `scheme "kafka": want nats`,
	} {
		_, err := parse(text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "secret")
	}
}

// FuzzParse holds that what Parse accepts New accepts, and that no error has
// the password.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"nats://h1", "nats://user:hunter2hunter2@h1:4222,h2:4222?name=a&group_prefix=b&stream=c&tls=true", "nats://token@h1",
		"nats://u:hunter2hunter2@h1,", "nats:opaque?tls=1", "nats://h1/x#y", "nats://[::1]:4222", "nats://h1?;",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		config, err := nats.Parse(u)
		if err != nil {
			password, _ := u.User.Password()
			if len(password) > 8 && !strings.Contains(u.RawQuery+u.Scheme, password) {
				require.NotContains(t, err.Error(), password)
			}
			return
		}
		config.CredentialsFile = "" // which may not be there
		_, err = nats.New(config)
		require.NoError(t, err)
		require.Equal(t, strings.Count(u.Host, ","), strings.Count(config.URL, ","))
	})
}
