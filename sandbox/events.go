package sandbox

import (
	"context"
	"sync"
)

// eventBacklog is how many events a subscriber may be behind.
const eventBacklog = 4096

// broadcaster hands every event to every subscriber without waiting for any.
type broadcaster struct {
	mu   sync.Mutex
	subs map[chan Event]struct{}
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

func (b *broadcaster) publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.subs {
		select {
		case ch <- e:
		default:
			b.cut(ch)
		}
	}
}
