package kafka_test
import ("testing";"time";"sync";"sync/atomic";"fmt";"sort"
 "github.com/IBM/sarama"
 "github.com/ThreeDotsLabs/watermill/message"
 "github.com/reprise-bus/reprise/internal/testbroker"
 "github.com/reprise-bus/reprise/pubsub/kafka")
func TestMeasurePublish(t *testing.T){
 for round:=0;round<2;round++{
 for _,c:=range []struct{name string; f func(*sarama.Config)}{
  {"idempotent max1",func(c *sarama.Config){}},
  {"plain max1",func(c *sarama.Config){c.Producer.Idempotent=false}},
  {"plain max5",func(c *sarama.Config){c.Producer.Idempotent=false;c.Net.MaxOpenRequests=5}},
 }{
 for _,callers:=range []int{1,16,256}{
  topic:=testbroker.Topic(t,12)
  tr:=newTransport(t,kafka.Config{Sarama:c.f}); pub,err:=tr.Publisher(); if err!=nil{t.Fatal(err)}
  warm:=newMessage("x"); pub.Publish(topic,warm)
  var n atomic.Int64; var mu sync.Mutex; var lat []time.Duration
  end:=time.Now().Add(2*time.Second); var wg sync.WaitGroup
  for i:=0;i<callers;i++{ wg.Go(func(){ var l []time.Duration; for j:=0;time.Now().Before(end);j++{ m:=newMessage("0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"); m.Metadata.Set("key",fmt.Sprint(i,j)); b:=time.Now(); if err:=pub.Publish(topic,m);err!=nil{t.Error(err);return}; l=append(l,time.Since(b)); n.Add(1)}; mu.Lock(); lat=append(lat,l...); mu.Unlock()})}
  wg.Wait(); sort.Slice(lat,func(i,j int)bool{return lat[i]<lat[j]})
  fmt.Printf("%-16s callers %3d: %6d/s p50 %v p99 %v\n",c.name,callers,n.Load()/2,lat[len(lat)/2].Round(10*time.Microsecond),lat[len(lat)*99/100].Round(10*time.Microsecond))
  pub.Close()
 }}}
 _ = message.Message{}
}
