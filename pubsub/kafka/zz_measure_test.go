package kafka_test
import ("testing";"time";"fmt";"os"
 "github.com/twmb/franz-go/pkg/kgo"
 "github.com/IBM/sarama"
 wk "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
 "github.com/ThreeDotsLabs/watermill/message"
 "github.com/ThreeDotsLabs/watermill"
 "github.com/reprise-bus/reprise/internal/testbroker"
 "github.com/reprise-bus/reprise/internal/testdb"
 "github.com/reprise-bus/reprise/pubsub"
 "github.com/stretchr/testify/require"
 "github.com/reprise-bus/reprise/pubsub/kafka")
func TestMeasureInbox(t *testing.T){
 N:=200_000
 topic:=testbroker.Topic(t,12)
 c,_:=kgo.NewClient(kgo.SeedBrokers(testbroker.Kafka(t)...),kgo.DefaultProduceTopic(topic))
 pay:=make([]byte,200); for i:=range pay{pay[i]='a'+byte(i%26)}
 for i:=0;i<N;i++{ c.Produce(t.Context(),&kgo.Record{Key:[]byte(fmt.Sprint(i)),Value:[]byte(`"`+string(pay)+`"`),Headers:[]kgo.RecordHeader{{Key:wk.UUIDHeaderKey,Value:[]byte(watermill.NewUUID())}}},nil)}
 c.Flush(t.Context()); c.Close()
 for round:=0;round<2;round++{
 for _,kind:=range []string{"ours","stock"}{
  for _,handle:=range []bool{false,true}{
  if kind=="stock"&&os.Getenv("NOSTOCK")!=""{continue}
  n:=N; if kind=="stock"{n=20000}
  st:=openStore(t,testdb.Postgres(t)); ps:=newPubSub(t,st)
  var sub message.Subscriber
  group:=testbroker.Name("g")
  if kind=="ours"{ tr:=newTransport(t,kafka.Config{}); sub,_=tr.Subscriber(group)} else {
   cfg:=wk.DefaultSaramaSubscriberConfig(); cfg.Consumer.Offsets.Initial=sarama.OffsetOldest
   sub,_=wk.NewSubscriber(wk.SubscriberConfig{Brokers:testbroker.Kafka(t),Unmarshaler:wk.DefaultMarshaler{},ConsumerGroup:group,OverwriteSaramaConfig:cfg},nil)
  }
  in,err:=ps.Inbox(sub,"handler",again,pubsub.InboxConfig{}); require.NoError(t,err)
  b:=time.Now()
  ch,err:=in.Subscribe(t.Context(),topic); require.NoError(t,err)
  if handle { go func(){for m:=range ch{m.Ack()}}() }
  var first time.Time
  for { var k int; q:="SELECT count(*) FROM reprise.handler_runs"; if handle{q+=" WHERE status='SUCCESS'"}; require.NoError(t,st.DB().Get(&k,q)); if k>0&&first.IsZero(){first=time.Now()}; if k>=n{break}; time.Sleep(50*time.Millisecond)}
  fmt.Printf("%s handled=%v: %d in %v (first after %v): %d/s\n",kind,handle,n,time.Since(first).Round(time.Millisecond),first.Sub(b).Round(time.Millisecond),int(float64(n)/time.Since(first).Seconds()))
  in.Close()
 }}}
}
