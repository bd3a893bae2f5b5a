package shim

import (
	"sync"

	"berth/oci/shimapi"
)

// backlog is how many events a watcher may be behind before it is cut off; it
// then comes back and gets a replay.
const backlog = 1024

// hub holds the present record of everything and tells watchers of each change,
// in one order for all, so that nobody sees an older fact after a newer one.
type hub struct {
	mu       sync.Mutex
	records  map[string]shimapi.Record
	watchers map[chan shimapi.Event]struct{}
}

func newHub() *hub {
	return &hub{records: map[string]shimapi.Record{}, watchers: map[chan shimapi.Event]struct{}{}}
}

// publish makes r the record of its ID and tells everyone.
func (h *hub) publish(kind string, r shimapi.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records[r.ID] = r
	for w := range h.watchers {
		select {
		case w <- shimapi.Event{Kind: kind, Record: r}:
		default:
			delete(h.watchers, w)
			close(w)
		}
	}
}

func (h *hub) forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.records, id)
}

func (h *hub) list() shimapi.ListResponse {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := shimapi.ListResponse{Pods: []shimapi.Record{}, Containers: []shimapi.Record{}}
	for _, r := range h.records {
		if r.Pod == "" {
			l.Pods = append(l.Pods, r)
		} else {
			l.Containers = append(l.Containers, r)
		}
	}
	return l
}

// subscribe returns what there is and a channel of what happens from then on,
// which is closed when the watcher fell behind or the shim leaves.
func (h *hub) subscribe() (replay []shimapi.Event, events chan shimapi.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.records {
		replay = append(replay, shimapi.Event{Kind: kindOf(r), Replay: true, Record: r})
	}
	events = make(chan shimapi.Event, backlog)
	if h.watchers == nil {
		close(events)
	} else {
		h.watchers[events] = struct{}{}
	}
	return replay, events
}

func (h *hub) unsubscribe(events chan shimapi.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.watchers[events]; ok {
		delete(h.watchers, events)
		close(events)
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		close(w)
	}
	h.watchers = nil
}

// kindOf is the event that would have made the record what it is.
func kindOf(r shimapi.Record) string {
	switch {
	case r.Status == shimapi.StatusStopped && r.Pod == "":
		return shimapi.EventPodExited
	case r.Status == shimapi.StatusStopped:
		return shimapi.EventExited
	case r.Status == shimapi.StatusRunning:
		return shimapi.EventStarted
	}
	return shimapi.EventCreated
}

// watch answers a replay, then events until the client hangs up or falls behind.
func (s *Server) watch(c *call) (any, error) {
	replay, events := s.hub.subscribe()
	gone := c.hungUp()
	go func() {
		<-gone
		s.hub.unsubscribe(events)
	}()
	for _, e := range replay {
		if err := c.answer(e, nil); err != nil {
			s.hub.unsubscribe(events)
			return nil, errAnswered
		}
	}
	for e := range events {
		if err := c.answer(e, nil); err != nil {
			s.hub.unsubscribe(events)
			break
		}
	}
	return nil, errAnswered
}
