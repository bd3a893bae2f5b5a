package shims

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"berth/oci/shimapi"
)

// adoptPatience is how long a hand-over waits for the adoption of one container, whose log may be
// on a file system that hangs, before it goes on with the others. It is a variable for the tests.
var adoptPatience = 5 * time.Second

// adoption makes a process adopt a pod or container. It goes on until the process has answered or
// ended, or cancel was called.
type adoption struct {
	*handover
	process *process
	cancel  context.CancelFunc
	over    chan struct{} // closed when err is set
	err     error
}

func (p *process) beginAdoption(h *handover) *adoption {
	ctx, cancel := context.WithCancel(context.Background())
	a := &adoption{handover: h, process: p, cancel: cancel, over: make(chan struct{})}
	go func() {
		defer close(a.over)
		defer cancel()
		a.err = h.sendTo(ctx, p)
	}()
	return a
}

// adopt begins an adoption and waits for it. One of a container may not be over when adopt
// returns; all others need their pod.
func (p *process) adopt(ctx context.Context, h *handover) *adoption {
	a := p.beginAdoption(h)
	var late <-chan time.Time
	if h.Pod != "" {
		timer := time.NewTimer(adoptPatience)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-a.over:
	case <-late:
	case <-ctx.Done():
		a.cancel()
		<-a.over
		a.err = context.Cause(ctx)
	}
	return a
}

// mayWait tells whether the others need not wait for the end of this adoption of a container: it
// hangs, or was refused for a reason that may pass and is its own.
func (a *adoption) mayWait() bool {
	if a.Pod == "" {
		return false
	}
	select {
	case <-a.over:
		_, refused := errors.AsType[*shimapi.Error](a.err)
		return refused && !IsShortage(a.err) && !isLost(a.err)
	default:
		return true
	}
}

// why is the reason of the delay.
func (a *adoption) why() string {
	select {
	case <-a.over:
		return a.err.Error()
	default:
		return fmt.Sprintf("its adoption takes longer than %v", adoptPatience)
	}
}

// complete waits for the end of an adoption that the others did not wait for, and tries again
// until the container is adopted or lost. When the process ends, its replacement adopts the
// container with all others.
func (a *adoption) complete() {
	h, p := a.handover, a.process
	s := p.shim.set
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		select {
		case <-a.over:
		case <-s.ctx.Done():
			a.cancel()
			<-a.over
		}
		if a.err == nil || s.ctx.Err() != nil {
			return // it tells of the container by an event itself
		}
		if isLost(a.err) {
			p.shim.forget(h.ID)
			s.report(p.shim.eventOf(h, EventLost, ""))
			return
		}
		if _, refused := errors.AsType[*shimapi.Error](a.err); !refused && !IsShortage(a.err) {
			return // the process is dying
		}
		if p.waitIfDying(s.ctx, delay); p.isGone() {
			return
		}
		a = p.beginAdoption(h)
	}
}

// eventOf is an event about a pod or container of the shim.
func (sh *Shim) eventOf(h *handover, kind, why string) Event {
	r := shimapi.Record{ID: h.ID, Pod: h.Pod, Message: why}
	return Event{ShimID: sh.id, Event: shimapi.Event{Kind: kind, Record: r}}
}

// lacks returns an error for a request about a container that the process has not adopted yet.
// The shim itself would take it for one that is gone.
func (p *process) lacks(request any) error {
	id := subject(request)
	p.shim.set.mu.Lock()
	defer p.shim.set.mu.Unlock()
	if h := p.shim.handover[id]; h == nil || h.Pod == "" || h.holder == p || p.isGone() {
		return nil
	}
	return fmt.Errorf("container %s was not taken over from a dead process of shim %s yet: %w", id, p.shim.id, ErrDelayed)
}

// subject is the ID of the pod or container that a request of those methods is about which take
// what exists already; "" for all others.
func subject(request any) string {
	switch r := request.(type) {
	case shimapi.IDRequest:
		return r.ID
	case *shimapi.KillRequest:
		return r.ID
	case *shimapi.UpdateRequest:
		return r.ID
	case *shimapi.ResizeRequest:
		return r.ID
	case *shimapi.ExecRequest:
		return r.ID
	case *shimapi.AttachRequest:
		return r.ID
	}
	return ""
}

// withLate adds the containers to a list of the shim that its process has not adopted yet.
func (sh *Shim) withLate(held shimapi.ListResponse) shimapi.ListResponse {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	for id, h := range sh.handover {
		listed := slices.ContainsFunc(held.Containers, func(r shimapi.Record) bool { return r.ID == id })
		if h.Pod != "" && h.holder != sh.process && !listed {
			held.Containers = append(held.Containers, shimapi.Record{ID: id, Pod: h.Pod})
		}
	}
	return held
}
