package cni

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	// gcTogether is how many stale pods are detached side by side: a plugin that
	// waits for something takes no CPU, and one after the other they would take hours.
	gcTogether = 8
	// gcTries is how often a GC of the plugins gives way to ADDs.
	gcTries = 5
)

// GC detaches every pod that is remembered and not among known, then asks the
// plugins to free what else they hold (CNI 1.1 on). It may run while pods are being
// attached: known is asked after the remembered pods were listed, so it must name
// each pod that is to stay, and each whose Add or Del may run meanwhile.
func (n *Network) GC(ctx context.Context, known func() []Attachment) error {
	pods, errs := n.rememberedPods()
	keep := map[string]bool{}
	for _, a := range known() {
		keep[a.PodID] = true
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	slots := make(chan struct{}, gcTogether)
	for pod := range pods {
		if keep[pod] {
			continue
		}
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			err := n.Del(ctx, Request{PodID: pod})
			if errors.Is(err, ErrNotReady) {
				n.owe(pod)
			}
			if err != nil {
				mu.Lock()
				errs = errors.Join(errs, fmt.Errorf("stale pod %s: %w", pod, err))
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return errors.Join(errs, n.gcPlugins(ctx, keep))
}

// gcPlugins asks the plugins to free what belongs to no pod that is known or
// remembered.
func (n *Network) gcPlugins(ctx context.Context, known map[string]bool) error {
	list, err := n.usable()
	if err != nil || !knowsGC(list) {
		return nil //nolint:nilerr // nothing to ask; Ready tells why
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gcTimeout)
	defer cancel()
	for range gcTries {
		var alone context.Context
		if alone, err = n.turns.beginGC(ctx); err != nil {
			return err
		}
		err = n.gcOnce(alone, list, known)
		interrupted := alone.Err() != nil && ctx.Err() == nil
		n.turns.endGC()
		if !interrupted {
			return err
		}
	}
	return fmt.Errorf("the plugins' GC was interrupted by pods that start %d times; the next start of the daemon tries again: %w", gcTries, err)
}

// knowsGC tells whether libcni would ask the plugins of a network. All else that it does in a GC
// is to detach what it remembers and gcOnce does not name, which is nothing.
func knowsGC(list *libcni.NetworkConfigList) bool {
	since, err := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0")
	return err == nil && since && !list.DisableGC
}

func (n *Network) gcOnce(ctx context.Context, list *libcni.NetworkConfigList, known map[string]bool) error {
	// No ADD runs: all that is attached is remembered. What could not be detached is
	// as well, and libcni must not forget the configuration to try again with.
	pods, err := n.rememberedPods()
	if err != nil {
		return err
	}
	for pod := range known {
		pods[pod] = true
	}
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for pod := range pods {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: pod, IfName: ifName})
	}
	return n.cni.GCNetworkList(ctx, list, args)
}

// turns keeps ADDs and a GC of the plugins apart: a plugin would free what an ADD has
// just allocated, because it was not in the list the GC began with. An ADD does not
// wait for a GC to do its work but ends it; the GC is tried again.
type turns struct {
	mu   sync.Mutex
	adds int
	idle chan struct{} // closed when no ADD runs any more; nil while none does
	stop context.CancelFunc
	done chan struct{} // closed when the GC has ended; nil while none runs
}

func (t *turns) beginAdd() {
	t.mu.Lock()
	if t.adds++; t.idle == nil {
		t.idle = make(chan struct{})
	}
	stop, done := t.stop, t.done
	t.mu.Unlock()
	if done != nil {
		stop()
		<-done
	}
}

func (t *turns) endAdd() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.adds--; t.adds == 0 {
		close(t.idle)
		t.idle = nil
	}
}

// beginGC waits until no ADD runs. The context it returns ends with ctx and when an
// ADD begins; endGC must follow.
func (t *turns) beginGC(ctx context.Context) (context.Context, error) {
	for {
		t.mu.Lock()
		idle := t.idle
		if idle == nil {
			alone, stop := context.WithCancel(ctx)
			t.stop, t.done = stop, make(chan struct{})
			t.mu.Unlock()
			return alone, nil
		}
		t.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return nil, fmt.Errorf("the plugins' GC found no moment without a pod that starts; the next start of the daemon tries again: %w", context.Cause(ctx))
		}
	}
}

func (t *turns) endGC() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stop()
	close(t.done)
	t.stop, t.done = nil, nil
}
