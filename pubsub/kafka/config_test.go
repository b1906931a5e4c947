package kafka_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/pubsub/kafka"
)

func TestConfigNamesTheFieldThatIsWrong(t *testing.T) {
	t.Parallel()
	require.NoError(t, kafka.Config{Brokers: []string{"localhost:9092", "[::1]:9092"}}.Validate())
	for _, broker := range []string{"", "h1", ":9092", "h1:", "h1:port", "user:secret@h1:9092", "kafka://h1:9092", "h1:9092,h2:9092"} {
		err := kafka.Config{Brokers: []string{"h:1", broker}}.Validate()
		require.ErrorContains(t, err, "field Brokers: broker 2 of 2 is not host:port", broker)
		require.NotContains(t, err.Error(), "secret")
	}
	err := kafka.Config{Mechanism: "GSSAPI", Password: "secret"}.Validate()
	require.ErrorContains(t, err, "field Brokers is empty")
	require.ErrorContains(t, err, `field Mechanism "GSSAPI": want one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512`)
	require.ErrorContains(t, err, "field Username is empty")
	require.NotContains(t, err.Error(), "secret")
	_, err = kafka.New(kafka.Config{})
	require.ErrorContains(t, err, "kafka: field Brokers")
	_, err = kafka.New(kafka.Config{Brokers: []string{"h:1"}, Sarama: func(c *sarama.Config) { c.Net.MaxOpenRequests = 0 }})
	require.ErrorContains(t, err, "kafka: field Sarama: of a publisher: ")
	_, err = kafka.New(kafka.Config{Brokers: []string{"h:1"}, Sarama: func(c *sarama.Config) { c.Consumer.Group.Session.Timeout = 0 }})
	require.ErrorContains(t, err, "kafka: field Sarama: ")
}

func TestParse(t *testing.T) {
	t.Parallel()
	parse := func(text string) (kafka.Config, error) {
		u, err := url.Parse(text)
		require.NoError(t, err)
		return kafka.Parse(u)
	}
	config, err := parse("kafka://user:p%40ss%2C@h1:9092,h2:9093?client_id=shop&group_prefix=shop-&mechanism=SCRAM-SHA-512&tls=true")
	require.NoError(t, err)
	require.NotNil(t, config.TLS)
	config.TLS = nil
	require.Equal(t, kafka.Config{
		Brokers: []string{"h1:9092", "h2:9093"}, Username: "user", Password: "p@ss,", Mechanism: "SCRAM-SHA-512",
		ClientID: "shop", GroupPrefix: "shop-",
	}, config)
	config, err = parse("kafka://h1:9092?tls=false")
	require.NoError(t, err)
	require.Equal(t, kafka.Config{Brokers: []string{"h1:9092"}}, config)

	for text, want := range map[string]string{
		"kafka://h1:9092?group=x":                  `parameter "group": want one of client_id, group_prefix, mechanism, tls`,
		"kafka://h1:9092?client_id=a&client_id=b":  `parameter "client_id" is given 2 times`,
		"kafka://h1:9092?tls=maybe":                `parameter tls "maybe": want true or false`,
		"kafka://h1:9092?tls=%zz":                  "the parameters are no query",
		"kafka://h1:9092/orders":                   "more than brokers and parameters",
		"kafka://":                                 "field Brokers is empty",
		"kafka://u:secret@h1:9092,u:secret@h2:1":   "names a user for each of several hosts: name the user once",
		"kafka://user:secret@h1":                   "field Brokers: broker 1 of 1 is not host:port",
		"kafka://h1:9092?mechanism=PLAIN":          "field Username is empty",
		"kafka://u:secret@h1:9092?mechanism=plain": `field Mechanism "plain": want one of PLAIN`,
		"nats://user:secret@h1:4222":               `scheme "nats": want kafka`,
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
		"kafka://h1:9092", "kafka://user:hunter2hunter2@h1:9092,h2:9092?client_id=a&group_prefix=b&mechanism=SCRAM-SHA-256&tls=true",
		"kafka://u:hunter2hunter2@h1,", "kafka:opaque?tls=1", "kafka://h1:9092/x#y", "kafka://[::1]:9092", "kafka://h1:1?;",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		config, err := kafka.Parse(u)
		if err != nil {
			password, _ := u.User.Password()
			if len(password) > 8 && !strings.Contains(u.RawQuery+u.Scheme, password) {
				require.NotContains(t, err.Error(), password)
			}
			return
		}
		_, err = kafka.New(config)
		require.NoError(t, err)
		require.Equal(t, u.Host, strings.Join(config.Brokers, ","))
	})
}
