package kafka

import (
	"context"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Limits of a partition's messages under way. At a limit no more messages are fetched; an
// answer that the broker has sent already, 1 MiB compressed, may come on top.
const (
	mostMessages = 1000
	mostBytes    = 4 << 20
)

// lingering is how long delivered messages may still be acked when a partition is given
// up.
const lingering = time.Second

// nackPause is the time from a nack until the message is sent again.
const nackPause = 100 * time.Millisecond

// partition is a partition that this group member has, with its messages that were
// fetched and are not marked yet, oldest first. For use by one goroutine.
type partition struct {
	subscription *subscription
	session      sarama.ConsumerGroupSession
	claim        sarama.ConsumerGroupClaim

	flights []flight
	sent    int // how many flights were delivered
	bytes   int
	paused  bool
	again   *message.Message // the first message, to be sent once more
	retry   <-chan time.Time // when the first message is sent once more
}

// flight is a message on its way.
type flight struct {
	msg    *message.Message
	cancel context.CancelFunc // of the message's context
	offset int64
	size   int
}

func (p *partition) run() {
	defer p.end()
	for {
		var out chan<- *message.Message
		var next *message.Message
		if p.again != nil {
			out, next = p.subscription.out, p.again
		} else if p.sent < len(p.flights) {
			out, next = p.subscription.out, p.flights[p.sent].msg
		}
		acked, nacked := p.first()
		select {
		case from, open := <-p.claim.Messages():
			if !open {
				return
			}
			p.add(from)
		case out <- next:
			if p.again != nil {
				p.again = nil
			} else {
				p.sent++
			}
		case <-acked:
			p.mark()
		case <-nacked:
			p.retry = time.After(nackPause)
			p.repeat()
		case <-p.retry:
			p.retry = nil
			p.again = p.flights[0].msg
		case <-p.session.Context().Done():
			return
		}
	}
}

func (p *partition) add(from *sarama.ConsumerMessage) {
	msg := unmarshal(from)
	ctx, cancel := context.WithCancel(p.subscription.ctx)
	msg.SetContext(ctx)
	f := flight{msg: msg, cancel: cancel, offset: from.Offset, size: len(from.Value)}
	p.flights = append(p.flights, f)
	p.bytes += f.size
	if !p.paused && (len(p.flights) >= mostMessages || p.bytes >= mostBytes) {
		p.paused = true
		p.subscription.group.Pause(p.itself())
	}
}

// first returns the ack and nack signals of the oldest message, once it was delivered.
func (p *partition) first() (acked, nacked <-chan struct{}) {
	if p.sent == 0 || p.again != nil || p.retry != nil {
		return nil, nil
	}
	return p.flights[0].msg.Acked(), p.flights[0].msg.Nacked()
}

// mark marks and removes the oldest message, which was acked, and the acked messages
// right behind it.
func (p *partition) mark() {
	for last := false; !last; last = p.sent == 0 || !isAcked(p.flights[0].msg) {
		p.session.MarkOffset(p.claim.Topic(), p.claim.Partition(), p.flights[0].offset+1, "")
		p.bytes -= p.flights[0].size
		p.flights[0].cancel()
		p.flights[0] = flight{}
		p.flights = p.flights[1:]
		p.sent--
	}
	if p.paused && len(p.flights) <= mostMessages/2 && p.bytes <= mostBytes/2 {
		p.resume()
	}
}

func isAcked(msg *message.Message) bool {
	select {
	case <-msg.Acked():
		return true
	default:
		return false
	}
}

// repeat replaces the oldest message, which was nacked, by a copy.
func (p *partition) repeat() {
	first := &p.flights[0]
	first.cancel()
	ctx, cancel := context.WithCancel(p.subscription.ctx)
	first.msg, first.cancel = first.msg.Copy(), cancel
	first.msg.SetContext(ctx)
}

// end waits for acks for up to lingering and marks the acked messages. The rest is left
// to the next owner of the partition.
func (p *partition) end() {
	if p.paused {
		p.resume() // the partition may come back
	}
	timeout := time.After(lingering)
	for waiting := true; waiting && p.sent > 0; {
		acked, nacked := p.first()
		if acked == nil {
			break
		}
		select {
		case <-acked:
			p.mark()
		case <-nacked:
			waiting = false
		case <-timeout:
			waiting = false
		}
	}
	for _, f := range p.flights {
		f.cancel()
	}
}

func (p *partition) resume() {
	p.paused = false
	p.subscription.group.Resume(p.itself())
}

func (p *partition) itself() map[string][]int32 {
	return map[string][]int32{p.claim.Topic(): {p.claim.Partition()}}
}
