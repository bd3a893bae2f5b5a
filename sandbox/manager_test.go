package sandbox

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestLookup(t *testing.T) {
	all := map[string]int{"abc1": 1, "abd2": 2, "abc": 3}
	for _, tt := range []struct {
		id   string
		want int
		err  error
	}{
		{"abc1", 1, nil},
		{"abd", 2, nil},
		{"abc", 3, nil}, // a full ID wins over a prefix
		{"ab", 0, ErrInvalid},
		{"", 0, ErrInvalid},
		{"x", 0, ErrNotFound},
		{"abc12", 0, ErrNotFound},
	} {
		got, err := lookup(all, "pod sandbox", tt.id)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("lookup(%q) = %d, %v; want %d, %v", tt.id, got, err, tt.want, tt.err)
		}
	}
}

func TestSlotWaitObeysContext(t *testing.T) {
	s := newSlot()
	if err := s.take(context.Background()); err != nil {
		t.Fatal(err)
	}
	gaveUp := errors.New("client went away")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(gaveUp)
	if err := s.take(ctx); !errors.Is(err, gaveUp) {
		t.Errorf("take of a busy slot = %v, want the context's cause", err)
	}
	s.free()
	if err := s.take(ctx); err != nil {
		t.Errorf("take of a free slot = %v", err)
	}
}

func TestBroadcastCutsTheSlowReader(t *testing.T) {
	b := newBroadcaster()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	slow, fast := b.subscribe(ctx), b.subscribe(ctx)
	got := 0
	for range eventBacklog + 1 {
		b.publish(Event{})
		<-fast
		got++
	}
	n := 0
	for range slow { // ends, because the channel was closed
		n++
	}
	if n != eventBacklog || got != eventBacklog+1 {
		t.Errorf("slow reader got %d events before the cut, fast %d; want %d and %d", n, got, eventBacklog, eventBacklog+1)
	}
	if c, want := b.told(), (EventCounts{Subscribers: 1, Published: eventBacklog + 1, Cut: 1, LongestQueue: eventBacklog}); c != want {
		t.Errorf("counts %+v, want %+v", c, want)
	}
	cancel()
	select {
	case _, ok := <-fast:
		if ok {
			t.Error("event after the end of the subscription")
		}
	case <-time.After(10 * time.Second):
		t.Error("subscription does not end with its context")
	}
}

// Publishers that overlap get here in any order; the times are those of the queue.
func TestPublishStampsInTheOrderOfTheQueue(t *testing.T) {
	b := newBroadcaster()
	events := b.subscribe(t.Context())
	now := time.Now()
	b.publish(Event{At: now})
	b.publish(Event{At: now.Add(-time.Second)})
	first, second := <-events, <-events
	if first.At.Before(now) || second.At.Before(first.At) {
		t.Errorf("the second of two events is %v older than the first", first.At.Sub(second.At))
	}
}

// Of two readers that overlap, the slower one must not take the other's reading for one of
// before a restart.
func TestNanoCoresOfReadersThatOverlap(t *testing.T) {
	t0 := time.Unix(1000, 0)
	for name, late := range map[string]time.Duration{"older": -100 * time.Millisecond, "later, with a lower count": 100 * time.Millisecond} {
		var u usageSample
		u.nanoCores(t0, 5e9)
		if r, ok := u.nanoCores(t0.Add(2*time.Second), 6e9); !ok || r != 5e8 {
			t.Fatalf("rate %d %v, want half a core", r, ok)
		}
		if r, ok := u.nanoCores(t0.Add(2*time.Second+late), 6e9-1e6); !ok || r != 5e8 {
			t.Errorf("%s: rate %d %v, want the last one", name, r, ok)
		}
		if r, ok := u.nanoCores(t0.Add(4*time.Second), 8e9); !ok || r != 1e9 {
			t.Errorf("%s: the next rate is %d %v, want one core", name, r, ok)
		}
	}
}

func TestNanoCores(t *testing.T) {
	var u usageSample
	t0 := time.Unix(1000, 0)
	if _, ok := u.nanoCores(t0, 5e9); ok {
		t.Error("a rate from one reading")
	}
	if r, ok := u.nanoCores(t0.Add(2*time.Second), 6e9); !ok || r != 5e8 {
		t.Errorf("rate %d %v, want half a core", r, ok)
	}
	if r, ok := u.nanoCores(t0.Add(2*time.Second+time.Millisecond), 6e9+1e6); !ok || r != 5e8 {
		t.Errorf("rate %d %v over a too short span, want the last one", r, ok)
	}
	if _, ok := u.nanoCores(t0.Add(9*time.Second), 1e9); ok {
		t.Error("a rate over a counter that went back")
	}
}
