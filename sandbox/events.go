package sandbox

import (
	"context"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventBacklog is how many events a subscriber may be behind. One that is further behind
// gets these, and then the end: what it missed it can only learn from a list, so its
// stream must not go on as if nothing were missing. The kubelet of 1.37 reads events as
// hints to list at once what it lists every second all the same, and subscribes again
// five times in its life.
const eventBacklog = 4096

// EventCounts tell how the subscribers of events keep up, since the daemon started.
type EventCounts struct {
	Subscribers int    `json:"subscribers"` // now
	Published   uint64 `json:"published"`   // events
	Cut         uint64 `json:"cut"`         // subscribers that were ended because they fell behind
	// LongestQueue is the most events that one was behind, of eventBacklog at most.
	LongestQueue int `json:"longestQueue"`
}

// broadcaster hands every event to every subscriber without waiting for any.
type broadcaster struct {
	mu     sync.Mutex
	subs   map[chan Event]struct{}
	counts EventCounts
}

func newBroadcaster() *broadcaster {
	return &broadcaster{subs: make(map[chan Event]struct{})}
}

func (b *broadcaster) subscribe(ctx context.Context) <-chan Event {
	ch := make(chan Event, eventBacklog)
	b.mu.Lock()
	b.subs[ch] = struct{}{}
	b.mu.Unlock()
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.cut(ch)
	})
	return ch
}

// cut is called with mu held; closing twice is avoided by the map.
func (b *broadcaster) cut(ch chan Event) {
	if _, ok := b.subs[ch]; ok {
		delete(b.subs, ch)
		close(ch)
	}
}

// podEvent and containerEvent carry the pod as it is now, since it may be gone when a
// subscriber reads them. No lock of the pod is taken: c.mu may be held.
func podEvent(s *Sandbox, t runtimeapi.ContainerEventType) Event {
	return Event{Type: t, PodID: s.id, ContainerID: s.id, Pod: s.status.Load()}
}

func containerEvent(c *Container, t runtimeapi.ContainerEventType) Event {
	return Event{Type: t, PodID: c.pod.id, ContainerID: c.id, Pod: c.pod.status.Load()}
}

// publish stamps the event, so that times are in the order of the events.
func (b *broadcaster) publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.At = time.Now()
	b.counts.Published++
	for ch := range b.subs {
		select {
		case ch <- e:
			b.counts.LongestQueue = max(b.counts.LongestQueue, len(ch))
		default:
			b.cut(ch)
			b.counts.Cut++
		}
	}
}

// told gives the counts as they are now.
func (b *broadcaster) told() EventCounts {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.counts
	out.Subscribers = len(b.subs)
	return out
}
