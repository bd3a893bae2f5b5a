package shim

import (
	"sync"

	"berth/oci/shimapi"
)

// backlog is how many events a watcher may be behind before its connection is closed. The
// watcher connects again and gets a replay.
const backlog = 1024

// hub keeps the current record of every pod and container and sends each change to all
// watchers, in the same order, so that no watcher gets an older record after a newer one.
type hub struct {
	mu       sync.Mutex
	records  map[string]shimapi.Record
	watchers map[chan shimapi.Event]struct{}
}

func newHub() *hub {
	return &hub{records: map[string]shimapi.Record{}, watchers: map[chan shimapi.Event]struct{}{}}
}

// publish makes r the current record of its ID and sends it to all watchers.
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

// subscribe returns the current records and a channel of all later events. The channel is
// closed when the watcher falls behind or the shim exits.
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

// kindOf is the kind of event that leads to such a record.
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

// watch sends a replay of all records, then events until the client hangs up or falls
// behind.
func (h *hub) watch(c *call) (any, error) {
	replay, events := h.subscribe()
	gone := c.hungUp()
	go func() {
		<-gone
		h.unsubscribe(events)
	}()
	for _, e := range replay {
		if err := c.answer(e, nil); err != nil {
			h.unsubscribe(events)
			return nil, errAnswered
		}
	}
	for e := range events {
		if err := c.answer(e, nil); err != nil {
			h.unsubscribe(events)
			break
		}
	}
	return nil, errAnswered
}
