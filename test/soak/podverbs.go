package main

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/tally"
)

// makePod runs a pod, with a network of its own or the node's; cut short, the call is repeated,
// and makes one pod in all. nil: there is none.
func (w *worker) makePod(ctx context.Context, own bool) *pod {
	w.made++
	name := fmt.Sprintf("soak%d-%d", w.number, w.made)
	config, err := w.podConfig(w.owner(), name, own)
	if err != nil {
		w.Problem("%v", err)
		return nil
	}
	p := &pod{name: name, config: config, ready: true, bothDead: w.bothDead.Load()}
	if !w.runs(ctx, p) {
		return nil
	}
	p.note("ran")
	w.pods = append(w.pods, p)
	w.born()
	return p
}

// runPod runs a pod with some containers.
func (w *worker) runPod(ctx context.Context) {
	p := w.makePod(ctx, w.rng.IntN(2) == 0)
	if p == nil {
		return
	}
	w.look(ctx, p)
	for range w.rng.IntN(4) {
		w.createContainer(ctx, p)
		if w.rng.IntN(4) > 0 {
			w.startContainer(ctx, p)
		}
	}
}

// runs makes the call until it is not cut short.
func (w *worker) runs(ctx context.Context, p *pod) bool {
	run := func(ctx context.Context) error {
		id, err := w.cri.RunPod(ctx, p.config)
		if err == nil {
			p.id = id
		}
		return err
	}
	o, err := w.until(ctx, "run pod", run)
	if o == tally.Wrong && status.Code(err) == codes.AlreadyExists && w.lostSince(p.bothDead) {
		w.Count("run pod", tally.Refused)
		o, err = w.findPod(ctx, p)
	}
	if o == tally.Wrong {
		w.wrong("run pod", err, p.tell())
	}
	return o == tally.Fine
}

// born counts a pod that came.
func (p *phase) born() {
	now := p.alive.Add(1)
	for most := p.most.Load(); now > most && !p.most.CompareAndSwap(most, now); {
		most = p.most.Load()
	}
}

// findPod looks for the pod that was made by a call that was cut short and has ended with
// berthd and the shim since, so that a retry is refused, as it must be.
func (w *worker) findPod(ctx context.Context, p *pod) (tally.Outcome, error) {
	return w.until(ctx, "list", func(ctx context.Context) error {
		found, err := w.cri.Pods(ctx, p.config.GetLabels())
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("it exists and %d are listed", len(found))
		}
		if err == nil {
			p.id = found[0].GetId()
		}
		return err
	})
}

// stopPod stops a pod; its containers are killed.
func (w *worker) stopPod(ctx context.Context, p *pod) {
	w.killing(p)
	p.stopped = true
	o, err := w.twice(ctx, "stop pod", func(ctx context.Context) error { return w.cri.StopPod(ctx, p.id) })
	p.note("stop: %s %v", o, err)
	switch o {
	case tally.Wrong:
		w.wrong("stop pod", err, p.tell())
	case tally.Fine:
		p.ready = false
	}
	w.look(ctx, p)
}

// killing notes that a pod's containers may be killed from now on.
func (w *worker) killing(p *pod) {
	for _, c := range p.containers {
		c.note("its pod goes")
		c.began(killedCode)
	}
}

// removePod removes a pod, stopped before or not, until it is gone.
func (w *worker) removePod(ctx context.Context, p *pod) {
	w.killing(p)
	p.stopped, p.mayGo = true, true
	for _, c := range p.containers {
		c.mayGo = true
	}
	for {
		o, err := w.twice(ctx, "remove pod", func(ctx context.Context) error { return w.cri.RemovePod(ctx, p.id) })
		p.note("remove: %s %v", o, err)
		if o == tally.Cut {
			continue
		}
		if o == tally.Wrong {
			w.wrong("remove pod", err, p.tell())
		}
		if o != tally.Fine {
			return
		}
		break
	}
	w.pods = slices.DeleteFunc(w.pods, func(q *pod) bool { return q == p })
	w.alive.Add(-1)
	w.lives.Add(1)
	o, err := w.until(ctx, "pod status", func(ctx context.Context) error {
		_, err := w.cri.PodStatus(ctx, p.id)
		return err
	})
	if o == tally.Fine || o == tally.Wrong && status.Code(err) != codes.NotFound {
		w.wrong("status of a pod that was removed", fmt.Errorf("%s, %w", o, err), p.tell())
	} else if o == tally.Wrong {
		w.Count("pod status", tally.Refused)
	}
}

// look asks for the status of a pod and of each of its containers.
func (w *worker) look(ctx context.Context, p *pod) {
	var st *runtimeapi.PodSandboxStatus
	o, err := w.until(ctx, "pod status", func(ctx context.Context) (err error) {
		st, err = w.cri.PodStatus(ctx, p.id)
		return err
	})
	if o == tally.Wrong && status.Code(err) == codes.NotFound {
		w.Count("pod status", tally.Refused)
		st, o = nil, tally.Fine
	}
	switch {
	case o == tally.Wrong:
		w.wrong("pod status", err, p.tell())
	case o == tally.Fine:
		if why := p.see(st, w.lostSince(p.bothDead)); why != "" {
			w.Problem("pod status: %s\n%s", why, p.tell())
		}
	}
	for _, c := range slices.Clone(p.containers) {
		w.observe(ctx, c)
	}
}

// list lists the client's pods and containers: none is missing, and there is none that
// it does not know.
func (w *worker) list(ctx context.Context) {
	var pods []*runtimeapi.PodSandbox
	var containers []*runtimeapi.Container
	o, err := w.until(ctx, "list", func(ctx context.Context) (err error) {
		if pods, err = w.cri.Pods(ctx, labels(w.owner())); err != nil {
			return err
		}
		r, err := w.cri.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{
			Filter: &runtimeapi.ContainerFilter{LabelSelector: labels(w.owner())},
		})
		containers = r.GetContainers()
		return err
	})
	if o == tally.Wrong {
		w.wrong("list", err, "")
	}
	if o != tally.Fine {
		return
	}
	listed := map[string]bool{}
	for _, p := range pods {
		listed[p.GetId()] = true
	}
	for _, c := range containers {
		listed[c.GetId()] = true
	}
	w.seeListed(listed)
}

// seeListed compares the IDs that are listed with those that must be.
func (w *worker) seeListed(listed map[string]bool) {
	for _, p := range w.pods {
		if !listed[p.id] && !p.mayGo {
			w.Problem("a pod is not listed\n%s", p.tell())
		}
		delete(listed, p.id)
		for _, c := range p.containers {
			if !listed[c.id] && !c.mayGo {
				w.Problem("a container is not listed\n%s", c.tell())
			}
			delete(listed, c.id)
		}
	}
	for id := range listed {
		w.Problem("client %d: %s is listed and was removed or never made", w.number, id)
	}
}
