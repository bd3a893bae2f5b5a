package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/sandbox/inflight"
	"berth/sandbox/record"
)

// StopContainer sends the container's stop signal, waits up to grace for its
// first process to end and then kills every process of it. An unknown or ended
// container is no error. Overlapping stops are fine: the signal is sent once
// and the shorter grace wins.
//
// A stop with another grace is another call, so that a shorter one is not refused.
func (v *containerVerbs) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	call := inflight.Call{Name: fmt.Sprintf("StopContainer of %s within %s", id, grace)}
	_, err := v.calls.Do(ctx, call, func(ctx context.Context) (string, error) {
		c, err := v.index.container(id)
		if errors.Is(err, ErrNotFound) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		return "", v.teardown.stopAndTell(ctx, c, grace)
	})
	return err
}

// stopAndTell is stop that returns when plugins know of the container's end.
func (t *teardown) stopAndTell(ctx context.Context, c *Container, grace time.Duration) error {
	if err := t.stop(ctx, c, grace); err != nil {
		return err
	}
	t.tell.stopped(ctx, c)
	return nil
}

// stop takes no slot, so that it never waits for another verb.
func (t *teardown) stop(ctx context.Context, c *Container, grace time.Duration) error {
	switch do, err := c.guard(verbStop); {
	case err != nil || do == nothing:
		return err
	case do == killAtOnce:
		grace = 0
	}
	if grace > 0 {
		if ended, err := t.askToEnd(ctx, c, grace); ended || err != nil {
			return err
		}
	}
	return t.kill(ctx, c)
}

// signalPause is the time until a stop signal is sent again that the host lacked what it takes
// to send.
const signalPause = 100 * time.Millisecond

// askToEnd sends the stop signal and waits for the end for at most grace. While the host lacks
// descriptors or memory the signal is sent again: the container has been promised its grace. It
// returns early, and not ended, when the signal can't be sent at all.
func (t *teardown) askToEnd(ctx context.Context, c *Container, grace time.Duration) (ended bool, err error) {
	over := time.NewTimer(grace)
	defer over.Stop()
	for {
		var again <-chan time.Time
		switch err := t.signalOnce(ctx, c); {
		case err == nil:
			over.Reset(grace) // to send it may have taken long, without a shim
		case shims.IsShortage(err):
			again = time.After(signalPause)
		default:
			klog.FromContext(ctx).Error(err, "Stop signal could not be sent; the container is killed", "container", c.id)
			return false, nil
		}
		select {
		case <-again:
		case <-c.done:
			return true, nil
		case <-over.C:
			return false, nil
		case <-ctx.Done():
			return false, fmt.Errorf("stop of container %s: %w", c.id, context.Cause(ctx))
		}
	}
}

// signalOnce sends the stop signal unless an earlier stop did.
func (t *teardown) signalOnce(ctx context.Context, c *Container) error {
	c.mu.Lock()
	sent := c.signalled
	c.signalled = true
	c.mu.Unlock()
	if sent {
		return nil
	}
	err := t.signal(ctx, c, c.rec.get().StopSignal, false)
	if err != nil { // the next stop sends it again
		c.mu.Lock()
		c.signalled = false
		c.mu.Unlock()
	}
	return err
}

func (t *teardown) signal(ctx context.Context, c *Container, sig int, all bool) error {
	shim, err := c.pod.shimIn(t.shims)
	if err != nil {
		return err
	}
	err = shim.Kill(ctx, &shimapi.KillRequest{ID: c.id, Signal: sig, All: all})
	if errors.Is(err, shims.ErrDelayed) {
		return t.signalWithoutShim(c, unix.Signal(sig), all)
	}
	if isKind(err, shimapi.KindNotRunning) {
		return nil
	}
	return err
}

// signalWithoutShim is signal for a container whose shim is dead and can't be replaced yet: the
// container may be what takes the processes or the memory that another shim needs. How it ends
// is kept for that shim to tell.
func (t *teardown) signalWithoutShim(c *Container, sig unix.Signal, all bool) error {
	if all {
		paths, err := t.cgroupsOf(c)
		return errors.Join(err, killCgroup(paths))
	}
	c.mu.Lock()
	pid, start := c.fact.PID, c.fact.StartTime
	c.mu.Unlock()
	return signalPID(pid, start, sig, 0)
}

// kill ends every process of a container and waits for the end to be recorded.
func (t *teardown) kill(ctx context.Context, c *Container) error {
	err := t.signal(ctx, c, int(unix.SIGKILL), true)
	if errors.Is(err, shims.ErrGone) {
		return t.killOrphan(c)
	}
	if isKind(err, shimapi.KindNotFound) {
		return t.lastWord(ctx, c) // a shim forgets what it was told to delete
	}
	if err != nil {
		return fmt.Errorf("kill container %s: %w", c.id, asDomain(err))
	}
	timer := time.NewTimer(t.stopTimeout)
	defer timer.Stop()
	select {
	case <-c.done:
		return nil
	case <-timer.C:
		if shim, err := c.pod.shimIn(t.shims); err == nil && shim.Delayed() {
			return failed(ErrNotReady, "container %s was killed, and its end will be known when its shim, which is dead, can be replaced; try again", c.id)
		}
		return failed(ErrTimeout, "container %s did not end within %s of SIGKILL: a process of it is probably in uninterruptible sleep, see /proc/%d/stack", c.id, t.stopTimeout, c.pid())
	case <-ctx.Done():
		return fmt.Errorf("kill of container %s: %w", c.id, context.Cause(ctx))
	}
}

func (c *Container) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fact.PID
}

// StopPod ends every process of a pod sandbox and releases what it holds; its
// records and its containers' writable layers stay. Idempotent; an unknown ID
// is no error.
func (p *podVerbs) StopPod(ctx context.Context, id string) error {
	_, err := p.calls.Do(ctx, inflight.Call{Name: "StopPodSandbox of " + id}, func(ctx context.Context) (string, error) {
		return "", p.stop(ctx, id)
	})
	return err
}

func (p *podVerbs) stop(ctx context.Context, id string) error {
	s, err := p.index.pod(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.beginStop()
	// Before the slot, so that a verb in progress sees its container end.
	if err := p.teardown.stopContainersOf(ctx, s); err != nil {
		return err
	}
	if err := s.slot.take(ctx); err != nil {
		return err
	}
	defer s.slot.free()
	if err := p.teardown.stopHeld(ctx, s); err != nil {
		return fmt.Errorf("stop pod sandbox %s: %w", s.id, err)
	}
	return nil
}

// stopHeld releases a pod whose slot is held, unless that was done.
func (t *teardown) stopHeld(ctx context.Context, s *Sandbox) error {
	if s.rec.get().Intent == record.Stopped {
		return nil
	}
	if err := t.releasePod(ctx, s, false); err != nil {
		return err
	}
	t.markStopped(ctx, s)
	return nil
}

// stopContainersOf kills a pod's containers side by side. Half-made ones are left
// to who makes them, or to the release that comes after: the shim may not know
// them yet, and then nothing would end them.
func (t *teardown) stopContainersOf(ctx context.Context, s *Sandbox) error {
	all := slices.DeleteFunc(t.index.containersOf(s), func(c *Container) bool { return c.status.Load() == nil })
	errs := make(chan error, len(all))
	for _, c := range all {
		go func() { errs <- t.stopAndTell(ctx, c, 0) }()
	}
	var joined error
	for range all {
		joined = errors.Join(joined, <-errs)
	}
	return joined
}
