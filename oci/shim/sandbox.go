package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"

	"berth/oci/shim/pause"
	"berth/oci/shimapi"
)

// foreignTimeout bounds a call to a foreign shim, whose runtime may start a machine.
const foreignTimeout = 2 * time.Minute

// stuckGrace is how long a foreign shim may take to send a signal. One that takes longer to
// kill, and as long again to say how the container is, counts as stuck.
const stuckGrace = 5 * time.Second

// sandbox is the foreign shim of a pod, and the sandbox container that it has made.
type sandbox struct {
	request shimapi.StartSandboxRequest
	shim    ForeignShim
	task    *taskProcess // nil: the pod has no sandbox container
	pid     int          // of task

	ending sync.Mutex // calls that stop the same pod may overlap
	over   bool       // end has succeeded; guarded by ending
}

// foreigns carries out the verbs that are about foreign shims.
type foreigns struct {
	registry *registry
	foreign  Foreign // nil: this program drives none
}

func (f foreigns) check() error {
	if f.foreign == nil {
		return fault(shimapi.KindInvalid, "this shim drives no shims of containerd")
	}
	return nil
}

// start starts the foreign shim of a pod, and its sandbox container if one is wanted.
func (f foreigns) start(_ *call, r shimapi.StartSandboxRequest) (any, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	p, ok := f.registry.pod(r.Bundle.ID)
	if !ok || !p.isMade() {
		return nil, fault(shimapi.KindNotFound, "this shim holds no pod %s", r.Bundle.ID)
	}
	if p.sandbox.Load() != nil {
		return nil, fault(shimapi.KindExists, "pod %s has a sandbox already", r.Bundle.ID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), foreignTimeout)
	defer cancel()
	if err := writeBundle(r.Bundle.Dir, r.Spec); err != nil {
		return nil, err
	}
	if r.Program != "" {
		if err := pause.Install(r.Program); err != nil {
			return nil, err
		}
	}
	foreign, err := f.foreign.Start(ctx, r.Bundle)
	if err != nil {
		return nil, errors.Join(fault(shimapi.KindStartFailed, "%w", err), removeForeignCgroup(r.Bundle.Runtime))
	}
	b := &sandbox{request: r, shim: foreign}
	if r.Container {
		if err := b.startContainer(ctx); err != nil {
			err = fault(shimapi.KindStartFailed, "sandbox container: %w", err)
			return nil, errors.Join(err, foreign.End(context.Background()), f.reclaim(r.Bundle), removeForeignCgroup(r.Bundle.Runtime))
		}
	}
	p.sandbox.Store(b)
	go f.watch(p, b)
	if isClosed(p.done) { // it was stopped meanwhile, before it had a sandbox to end
		return nil, errors.Join(fault(shimapi.KindNotRunning, "pod %s has ended", p.id), f.end(b))
	}
	return shimapi.StartSandboxResponse{ShimPID: foreign.PID(), PID: b.pid}, nil
}

// writeBundle writes what a foreign shim reads.
func writeBundle(dir string, spec []byte) error {
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), spec, 0o600); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	return nil
}

// startContainer makes the sandbox container, which has no streams.
func (b *sandbox) startContainer(ctx context.Context) error {
	task, pid, err := b.shim.Create(ctx, TaskRequest{Bundle: b.request.Bundle})
	if err != nil {
		return err
	}
	b.task, b.pid = newTaskProcess(task), pid
	_, err = task.Start(ctx)
	return err
}

// watch kills the pause process, which makes the pod not ready, when the sandbox container
// or the foreign shim has ended.
func (f foreigns) watch(p *pod, b *sandbox) {
	ended := make(chan struct{})
	if b.task != nil {
		go func() {
			defer close(ended)
			b.task.wait()
		}()
	}
	select {
	case <-ended:
		slog.Info("sandbox container ended", "pod", p.id)
	case <-b.shim.Gone():
		slog.Info("foreign shim ended", "pod", p.id)
	case <-p.done:
		return
	}
	if err := p.process.signal(unix.SIGKILL); err != nil && !isGone(err) {
		slog.Error("pause of a pod without its sandbox stays", "pod", p.id, "error", err)
	}
}

// end ends the sandbox container and the foreign shim. It can be repeated.
func (f foreigns) end(b *sandbox) error {
	b.ending.Lock()
	defer b.ending.Unlock()
	if b.over {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	if b.task != nil && !isClosed(b.shim.Gone()) {
		b.task.endIn(ctx)
	}
	lost := isClosed(b.shim.Gone())
	if err := b.shim.End(ctx); err != nil {
		return err
	}
	if lost {
		if err := f.reclaim(b.request.Bundle); err != nil {
			return err
		}
	}
	if err := removeForeignCgroup(b.request.Bundle.Runtime); err != nil {
		return err
	}
	b.over = true
	return nil
}

// followKill takes the answer of a foreign shim that was told to kill a container.
func (b *sandbox) followKill(container string, p *taskProcess, err error) error {
	if err != nil {
		return b.killFailed(container, p, err)
	}
	if p.expected.CompareAndSwap(false, true) {
		go b.expectEnd(container, p)
	}
	return nil
}

// killFailed takes the error of a foreign shim that was told to kill a container. A shim that
// has not answered, and does not answer a second call either, is ended: nothing else would end
// its containers. One that does answer that has some more time to do the kill. What a shim that
// is gone leaves is ended by who waits for its containers.
func (b *sandbox) killFailed(container string, p *taskProcess, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && (b.isStuck(container) || !b.endsWithin(p, stopGrace)) {
		return b.endStuck()
	}
	if isClosed(b.shim.Gone()) || isClosed(p.over) {
		return nil
	}
	return err
}

// endStuck ends a shim that does not do what it was told to, by force.
func (b *sandbox) endStuck() error {
	slog.Error("foreign shim does not do what it is told and is killed", "pod", b.request.Bundle.ID)
	return b.shim.End(context.Background())
}

// endsWithin tells whether the end of a container is known in that time, or its shim is gone.
func (b *sandbox) endsWithin(p *taskProcess, within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.over:
	case <-b.shim.Gone():
	case <-timer.C:
		return false
	}
	return true
}

// expectEnd ends a shim that has killed a container, says that it does not run, and yet does
// not tell of its end to who waits for that: the container could never be stopped.
func (b *sandbox) expectEnd(container string, p *taskProcess) {
	defer p.expected.Store(false) // the next kill is watched as well
	if b.endsWithin(p, stuckGrace) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stuckGrace)
	defer cancel()
	running, err := b.shim.Task(container).Started(ctx)
	if err == nil && running || b.endsWithin(p, stuckGrace) {
		return // the kernel may not let it end, which is no fault of the shim
	}
	if err := b.endStuck(); err != nil {
		slog.Error("foreign shim is not killed", "pod", b.request.Bundle.ID, "error", err)
	}
}

func (b *sandbox) isStuck(container string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), stuckGrace)
	defer cancel()
	_, err := b.shim.Task(container).Started(ctx)
	return errors.Is(err, context.DeadlineExceeded)
}

// reclaim ends what a dead shim has left of a container.
func (f foreigns) reclaim(b shimapi.Bundle) error {
	if _, err := os.Stat(filepath.Join(b.Dir, "config.json")); errors.Is(err, os.ErrNotExist) {
		return nil // nothing was made
	} else if err != nil {
		return err
	}
	_, err := reclaimWith(f.foreign, b)
	return err
}

// programPatience is how long the program of a foreign shim is waited for that is not there:
// it may be being replaced.
const programPatience = 10 * time.Second

// goneProgram notes since when a program of foreign shims is missed, so that its patience is
// taken once, and not for each container of a pod that is being stopped.
var goneProgram absence

type absence struct {
	mu    sync.Mutex
	noted map[string]*missed // by path: those of the configuration
}

// missed tells when a file was found missing first and last.
type missed struct{ first, last time.Time }

// missingFor is how long a file has been missing, since that was asked first; 0: it is there. Where
// nobody has asked for a while it may have been there, so that the time begins anew.
func (a *absence) missingFor(path string) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		delete(a.noted, path)
		return 0
	}
	if a.noted == nil {
		a.noted = make(map[string]*missed)
	}
	m, now := a.noted[path], time.Now()
	if m == nil || now.Sub(m.last) > programPatience {
		m = &missed{first: now}
		a.noted[path] = m
	}
	m.last = now
	return now.Sub(m.first) + 1
}

// reclaimWith ends a container by the program of its dead shim. Without the program, which
// may have been uninstalled below its pods, it ends what the kernel knows of: a pod that could
// not be ended for this would keep its node from being drained. How the container ended is
// not known then.
func reclaimWith(f Foreign, b shimapi.Bundle) (end, error) {
	ctx, cancel := context.WithTimeout(context.Background(), foreignTimeout)
	defer cancel()
	for ; ; time.Sleep(programPatience / 20) {
		st, err := f.Reclaim(ctx, b)
		if err == nil {
			return end{ExitStatus: st}, nil
		}
		missing := goneProgram.missingFor(b.Runtime.Shim)
		if !errors.Is(err, fs.ErrNotExist) || missing == 0 {
			return end{}, err
		}
		if missing > programPatience {
			slog.Error("program of a foreign shim is gone; its container is ended by its cgroup, and what the program keeps elsewhere stays", "container", b.ID, "error", err)
			return unknownEnd(), reclaimCgroup(b)
		}
	}
}

// reclaimCgroup kills the processes of a container and removes its cgroup, then config.json,
// by which [foreigns.reclaim] knows that nothing is left. A container without the cgroup that
// it was to have may live elsewhere, so that is an error unless it is known to have ended.
func reclaimCgroup(b shimapi.Bundle) error {
	spec, err := specOf(b.Dir)
	if err != nil {
		return fmt.Errorf("cgroup of container %s: %w", b.ID, err)
	}
	systemd := !filepath.IsAbs(spec.Linux.CgroupsPath) // slice:prefix:name
	if err := checkCgroupPath(spec.Linux.CgroupsPath, systemd); err != nil {
		return err
	}
	config, err := libcontainerConfig(b.ID, spec, systemd)
	if err != nil {
		return err
	}
	if m, err := manager.New(config.Cgroups); err != nil || !m.Exists() && !b.Ended {
		return errors.Join(fmt.Errorf("container %s has no cgroup %s: install its runtime again, or end its processes by hand", b.ID, spec.Linux.CgroupsPath), err)
	}
	if err := endCgroup(config.Cgroups); err != nil {
		return err
	}
	return os.Remove(filepath.Join(b.Dir, "config.json"))
}

// reclaimPod ends what is left of a pod whose shim, this program's other process, died
// together with the daemon.
func (f foreigns) reclaimPod(_ *call, r shimapi.ReclaimRequest) (any, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	var errs []error
	if r.Pod.ID != "" { // first: it would see the end of its containers
		errs = append(errs, f.foreign.ReclaimShim(context.Background(), r.Pod))
	}
	for _, b := range r.Containers {
		errs = append(errs, f.reclaim(b))
	}
	if r.Pod.ID != "" {
		errs = append(errs, f.reclaim(r.Pod), removeForeignCgroup(r.Pod.Runtime))
	}
	return nil, errors.Join(errs...)
}

// adopt connects to the foreign shim of a pod that this shim takes over from a dead one.
func (f foreigns) adopt(p *pod, r shimapi.StartSandboxRequest) error {
	if err := f.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	foreign, err := f.foreign.Connect(ctx, r.Bundle)
	if err != nil {
		return fault(shimapi.KindNotFound, "foreign shim of pod %s: %w", p.id, err)
	}
	b := &sandbox{request: r, shim: foreign}
	if r.Container {
		b.task = newTaskProcess(foreign.Task(r.Bundle.ID))
	}
	p.sandbox.Store(b)
	go f.watch(p, b)
	return nil
}

// usage asks the foreign shim of a container what that uses.
func (f foreigns) usage(_ *call, r shimapi.IDRequest) (any, error) {
	ctr, err := f.registry.running(r.ID)
	if err != nil {
		return nil, err
	}
	if ctr.task == nil {
		return nil, fault(shimapi.KindInvalid, "container %s is of the built-in runtime: read its cgroup", r.ID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	u, err := ctr.task.Usage(ctx)
	return u, err
}
