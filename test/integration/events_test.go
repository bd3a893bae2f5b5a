package integration

import (
	"context"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type eventKey struct {
	id   string
	kind runtimeapi.ContainerEventType
}

// events collects what GetContainerEvents tells.
type events struct {
	cancel context.CancelFunc
	ended  chan struct{}

	mu     sync.Mutex
	seen   map[eventKey]chan struct{} // closed when it was seen
	resps  []*runtimeapi.ContainerEventResponse
	broken error
}

func subscribe(c runtimeapi.RuntimeServiceClient) (*events, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := c.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		cancel()
		return nil, err
	}
	e := &events{cancel: cancel, ended: make(chan struct{}), seen: map[eventKey]chan struct{}{}}
	go func() {
		defer close(e.ended)
		for {
			r, err := stream.Recv()
			if err != nil {
				e.mu.Lock()
				e.broken = err
				e.mu.Unlock()
				return
			}
			e.note(r)
		}
	}()
	return e, nil
}

func (e *events) note(r *runtimeapi.ContainerEventResponse) {
	c := e.of(r.GetContainerId(), r.GetContainerEventType())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.resps = append(e.resps, r)
	select {
	case <-c:
	default:
		close(c)
	}
}

// of is closed once there was an event of the kind for the ID.
func (e *events) of(id string, kind runtimeapi.ContainerEventType) chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := eventKey{id, kind}
	if e.seen[k] == nil {
		e.seen[k] = make(chan struct{})
	}
	return e.seen[k]
}

func (e *events) stop() {
	e.cancel()
	<-e.ended
}

// kinds are the events of an ID in the order they came.
func (e *events) kinds(id string) []runtimeapi.ContainerEventType {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []runtimeapi.ContainerEventType
	for _, r := range e.resps {
		if r.GetContainerId() == id {
			out = append(out, r.GetContainerEventType())
		}
	}
	return out
}
