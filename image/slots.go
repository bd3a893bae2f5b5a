package image

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// slotPatience is how long a pull that has no slot waits for one before it gets an
	// extra slot. Unless all downloads are stalled, a slot becomes free sooner.
	slotPatience = 3 * time.Second
	// maxExtra is the number of extra slots beyond Options.MaxParallel. One registry can
	// have at most half of them, so that pulls from other registries still get some.
	maxExtra = 16
)

// origin says for which pull, and from where, a layer would be fetched.
type origin struct {
	pull     *ingest // the pull to which the slot is charged
	registry string  // its host; "" for an archive
	source   string  // equal for pulls that would fetch the same bytes from the same place
}

// slots limit the number of layers that are fetched and unpacked at once. A free slot goes
// to the registry with the fewest slots, among its pulls to the one with the fewest, and
// among equals to the one that has waited longest. A pull that has no slot for
// [slotPatience], because stalled downloads have all of them, gets an extra one.
type slots struct {
	size     int
	patience time.Duration

	mu         sync.Mutex
	held       int
	byPull     map[*ingest]int
	byRegistry map[string]int
	queue      []*turn
}

// turn is a layer that waits for a slot or has one.
type turn struct {
	ready   chan struct{} // closed when the layer has its slot
	wanting []origin      // the pulls that wait for the layer; guarded by slots.mu
	charged origin        // the pull that the slot is charged to; valid when ready is closed
}

func newSlots(size int) *slots {
	return &slots{size: size, patience: slotPatience, byPull: map[*ingest]int{}, byRegistry: map[string]int{}}
}

func newTurn(o origin) turn { return turn{ready: make(chan struct{}), wanting: []origin{o}} }

// take waits for a slot. The caller returns it with [slots.give].
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

// join adds a pull that waits for the layer as well. The layer gets a slot as soon as one
// of its pulls is entitled to one.
func (s *slots) join(t *turn, o origin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.wanting = append(t.wanting, o)
	s.grant()
}

// drop removes a turn from the queue, and reports whether it was in the queue.
func (s *slots) drop(t *turn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.queue, t)
	if i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	return i >= 0
}

// give returns the slot of a turn.
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

// grant hands out all free slots. It is called with mu locked.
func (s *slots) grant() {
	for s.held < s.size && len(s.queue) > 0 {
		best, due, fewest := 0, origin{}, math.MaxInt
		for i, t := range s.queue {
			for _, o := range t.wanting {
				// The registry counts first, then the pull: no pull has 1<<20 slots.
				if n := s.byRegistry[o.registry]<<20 + s.byPull[o.pull]; n < fewest {
					best, due, fewest = i, o, n
				}
			}
		}
		s.hand(best, due)
	}
}

// hand gives the i-th turn of the queue a slot, which is charged to o. It is called with mu
// locked.
func (s *slots) hand(i int, o origin) {
	t := s.queue[i]
	s.queue = slices.Delete(s.queue, i, i+1)
	s.held++
	s.byPull[o.pull]++
	s.byRegistry[o.registry]++
	t.charged = o
	close(t.ready)
}

// grantExtra gives a turn that has waited for [slotPatience] an extra slot, if it still
// waits and one of the pulls that want the layer has no other slot.
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
