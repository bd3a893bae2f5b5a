package image

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// slotPatience is how long a pull without any slot waits for one of the common
	// ones before it gets one of its own. Layers that come at all free slots sooner.
	slotPatience = 3 * time.Second
	// maxExtra bounds the slots given on top of Options.MaxParallel; a registry can
	// have half of them, so that another's pulls still get some.
	maxExtra = 16
)

// origin is where a pull would have a layer from.
type origin struct {
	pull     *ingest // whose share of the slots it would take
	registry string  // "" is an archive
	source   string  // the same for pulls that would fetch the same bytes from the same place
}

// slots bound the layers that are worked on at once. A free one goes to the registry
// that has the fewest, of its pulls to the one that has the fewest, and then to the one
// that waited longest. A pull that has none for too long, because all are with layers
// that don't come, gets an extra one.
type slots struct {
	size     int
	patience time.Duration

	mu         sync.Mutex
	held       int
	byPull     map[*ingest]int
	byRegistry map[string]int
	queue      []*turn
}

// turn is one layer's wait for a slot, and then its slot.
type turn struct {
	ready   chan struct{} // closed when it has the slot
	wanting []origin      // those who wait for the layer; guarded by slots.mu
	charged origin        // the one whose share the slot is; valid when ready is closed
}

func newSlots(size int) *slots {
	return &slots{size: size, patience: slotPatience, byPull: map[*ingest]int{}, byRegistry: map[string]int{}}
}

func newTurn(o origin) turn { return turn{ready: make(chan struct{}), wanting: []origin{o}} }

// take waits for a slot, to be given back with [slots.give].
func (s *slots) take(ctx context.Context, t *turn) error {
	s.mu.Lock()
	s.queue = append(s.queue, t)
	s.grant()
	s.mu.Unlock()
	timer := time.NewTimer(s.patience)
	defer timer.Stop()
	for {
		select {
		case <-t.ready:
			return nil
		case <-ctx.Done():
			if !s.drop(t) {
				s.give(t)
			}
			return context.Cause(ctx)
		case <-timer.C:
			s.grantExtra(t)
			timer.Reset(s.patience)
		}
	}
}

// join adds one more who waits for the layer: it comes as soon as one of them is due.
func (s *slots) join(t *turn, o origin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.wanting = append(t.wanting, o)
	s.grant()
}

// drop takes a turn out of the queue; it tells whether the turn was there.
func (s *slots) drop(t *turn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.queue, t)
	if i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	return i >= 0
}

// give returns the slot a turn has.
func (s *slots) give(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held--
	if s.byPull[t.charged.pull]--; s.byPull[t.charged.pull] == 0 {
		delete(s.byPull, t.charged.pull)
	}
	if s.byRegistry[t.charged.registry]--; s.byRegistry[t.charged.registry] == 0 {
		delete(s.byRegistry, t.charged.registry)
	}
	s.grant()
}

// grant gives out what is free. The caller holds mu.
func (s *slots) grant() {
	for s.held < s.size && len(s.queue) > 0 {
		best, due, fewest := 0, origin{}, math.MaxInt
		for i, t := range s.queue {
			for _, o := range t.wanting {
				// A registry has far fewer slots than there are steps between two.
				if n := s.byRegistry[o.registry]<<20 + s.byPull[o.pull]; n < fewest {
					best, due, fewest = i, o, n
				}
			}
		}
		s.hand(best, due)
	}
}

// hand gives the i-th of the queue a slot out of the share of o. The caller holds mu.
func (s *slots) hand(i int, o origin) {
	t := s.queue[i]
	s.queue = slices.Delete(s.queue, i, i+1)
	s.held++
	s.byPull[o.pull]++
	s.byRegistry[o.registry]++
	t.charged = o
	close(t.ready)
}

// grantExtra gives a turn that waited too long a slot beyond the bound, if it is
// still waiting and one of those who want it has no other.
func (s *slots) grantExtra(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.queue, t)
	if i < 0 || s.held >= s.size+maxExtra {
		return
	}
	for _, o := range t.wanting {
		if s.byPull[o.pull] == 0 && s.byRegistry[o.registry] < s.size+maxExtra/2 {
			s.hand(i, o)
			return
		}
	}
}
