package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/failure"
	"berth/oci/shimapi"
)

// taskProcess is the first process of a container of a foreign shim, which is its parent
// and tells of its end.
type taskProcess struct {
	Task
	ended atomic.Bool
	over  chan struct{} // closed when wait has returned
	// expected: somebody watches that a kill is followed by the end.
	expected atomic.Bool
	// lost is called when the shim is gone and can't tell how the process has ended.
	lost func() (end, error)
}

func newTaskProcess(t Task) *taskProcess { return &taskProcess{Task: t, over: make(chan struct{})} }

// wait sleeps in a call to the shim.
func (p *taskProcess) wait() end {
	defer close(p.over)
	defer p.ended.Store(true)
	status, err := p.Wait(context.Background())
	if err == nil {
		return end{ExitStatus: status}
	}
	if p.lost == nil {
		return end{lost: true}
	}
	return p.reclaim()
}

// reclaimPause is how long the next try to end what a dead foreign shim has left is put off.
const reclaimPause = time.Second

// reclaim ends what a dead foreign shim has left. It tries for as long as the host lacks what
// that takes, or the shim's program does not end in time: the container may run on so long, and
// how it ends is known to that program only. After another failure the end is recorded, and the
// deletion of the container tries again.
func (p *taskProcess) reclaim() end {
	for ; ; time.Sleep(reclaimPause) {
		exit, err := p.lost()
		if err == nil {
			return exit
		}
		slog.Error("container without its foreign shim is not ended", "error", err)
		if !failure.IsShortage(err) && !errors.Is(err, context.DeadlineExceeded) {
			return unknownEnd()
		}
	}
}

// unknownEnd is an end now that nobody can tell more of.
func unknownEnd() end {
	return end{ExitStatus: shimapi.ExitStatus{Code: shimapi.CodeUnknown, FinishedAt: time.Now()}, lost: true}
}

func (p *taskProcess) signal(sig syscall.Signal) error { return p.signalAll(sig, false) }

func (p *taskProcess) signalAll(sig syscall.Signal, all bool) error {
	if p.ended.Load() {
		return os.ErrProcessDone
	}
	ctx, cancel := context.WithTimeout(context.Background(), stuckGrace)
	defer cancel()
	return p.Kill(ctx, int(sig), all)
}

func (p *taskProcess) alive() bool { return !p.ended.Load() }

func (p *taskProcess) file() *os.File { return nil } // a replacement asks the foreign shim

func (p *taskProcess) report(shimapi.ExitStatus) {} // the foreign shim is the parent and knows better

// endIn kills the process and makes the shim forget it.
func (p *taskProcess) endIn(ctx context.Context) {
	if err := p.Kill(ctx, int(unix.SIGKILL), true); err != nil && !isGone(err) {
		slog.Warn("sandbox container not killed", "error", err)
	}
	select {
	case <-p.over:
	case <-ctx.Done():
	}
	if err := p.Delete(ctx); err != nil && !isGone(err) {
		slog.Warn("sandbox container not deleted", "error", err)
	}
}

// sandboxOf is the foreign shim of a container's pod; nil: the pod is of the built-in
// runtime.
func (cs *containers) sandboxOf(pod string) *sandbox {
	p, ok := cs.registry.pod(pod)
	if !ok {
		return nil
	}
	return p.sandbox.Load()
}

// buildTask is build for a container of a foreign shim.
func (cs *containers) buildTask(ctr *container, b *sandbox, spec *specs.Spec, r shimapi.CreateRequest) (err error) {
	bundle := shimapi.Bundle{ID: r.ID, Dir: filepath.Dir(spec.Root.Path), Runtime: b.request.Bundle.Runtime}
	ctr.bundle, ctr.asked = bundle.Dir, spec.Linux.CgroupsPath
	if spec.Linux.Seccomp, err = readProfile(r.Spec); err != nil {
		return fault(shimapi.KindInvalid, "spec: seccomp: %w", err)
	}
	raw, err := json.Marshal(spec)
	if err == nil {
		err = writeBundle(bundle.Dir, raw)
	}
	if err != nil {
		return err
	}
	ctr.tracer, ctr.sandbox = mayTrace(spec), b
	ctr.fifos = &fifoSet{}
	if ctr.io, err = newFifoStdio(ctr.fifos, bundle.Dir, cs.newLog(r), r.Stdin, spec.Process.Terminal); err != nil {
		return err
	}
	if err := cs.createTask(ctr, b, TaskRequest{Bundle: bundle, Terminal: spec.Process.Terminal}, spec); err != nil {
		ctr.releaseFifos()
		ctr.io.close()
		return err
	}
	stopOOM := cs.ooms.watchContainer(ctr)
	ctr.change(shimapi.EventCreated, func(*shimapi.Record) {})
	go ctr.supervise(stopOOM)
	return nil
}

// createTask has the foreign shim make a container, unseen by the pod's tracers, and fills
// its record in.
func (cs *containers) createTask(ctr *container, b *sandbox, r TaskRequest, spec *specs.Spec) (err error) {
	reveal, err := cs.hide(ctr, spec)
	if err != nil {
		return err
	}
	defer func() { err = reveal(err) }()
	ctx, cancel := context.WithTimeout(context.Background(), foreignTimeout)
	defer cancel()
	r.Stdin, r.Stdout, r.Stderr = ctr.fifos.paths()
	task, pid, err := b.shim.Create(ctx, r)
	if err != nil {
		return fault(shimapi.KindStartFailed, "%s", plainRuntimeError(err))
	}
	ctr.useTask(task, cs.foreign, r.Bundle)
	ctr.pid = pid
	began, _ := shimapi.StartTime(pid) // 0: the runtime names no process of the host
	ctr.groups = groupsOf(pid, spec.Linux.CgroupsPath)
	ctr.ooms = newOOMCounter(ctr.groups)
	ctr.record = shimapi.Record{
		Version: recordVersion, ID: ctr.id, Pod: ctr.pod, Status: shimapi.StatusCreated, BootID: cs.bootID,
		PID: pid, StartTime: began, CgroupPaths: ctr.groups, CreatedAt: time.Now(),
	}
	return nil
}

// useTask makes a task of a foreign shim what carries the container out.
func (ctr *container) useTask(t Task, f Foreign, b shimapi.Bundle) {
	p := newTaskProcess(t)
	ctr.lost = func() (end, error) {
		b := b
		b.Ended = isClosed(ctr.done) && ctr.current().EndIsTold()
		e, err := reclaimWith(f, b)
		if err == nil {
			ctr.reclaimed.Store(true)
		}
		return e, err
	}
	p.lost = ctr.lost
	ctr.task, ctr.process = t, p
}

// plainRuntimeError leaves out what shims and runc put before the reason.
func plainRuntimeError(err error) string {
	text := strings.TrimPrefix(err.Error(), "OCI runtime create failed: ")
	for _, w := range append([]string{"runc create failed: "}, wrapping...) {
		text = strings.ReplaceAll(text, w, "")
	}
	return strings.TrimSuffix(text, ": unknown")
}

// groupsOf are the cgroups of a process, those only that were asked for: the runtime may
// have put the container elsewhere, and whatever is in these gets killed.
func groupsOf(pid int, asked string) group {
	own, err := cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	last := filepath.Base(asked)
	if parts := strings.Split(asked, ":"); len(parts) == 3 {
		last = parts[1] + "-" + parts[2] + ".scope"
	}
	g := group{}
	for controller, path := range own {
		if filepath.Base(path) != last {
			continue
		}
		if dir := hierarchyDir(controller); dir != "" {
			g[controller] = filepath.Join(dir, path)
		}
	}
	return g
}

// hierarchyDir is where the hierarchy of a controller is mounted; "" for nowhere.
func hierarchyDir(controller string) string {
	if controller == "" && unified() {
		return unifiedRoot
	}
	if controller == "" { // of a hybrid host
		controller = "unified"
	}
	dir := filepath.Join(unifiedRoot, strings.TrimPrefix(controller, "name="))
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}

// startTask is the rest of start for a container of a foreign shim.
func (ctr *container) startTask() error {
	ctx, cancel := context.WithTimeout(context.Background(), foreignTimeout)
	defer cancel()
	defer ctr.cancelAtEnd(ctx, cancel)()
	started := time.Now()
	if _, err := ctr.task.Start(ctx); err != nil {
		return fault(shimapi.KindStartFailed, "start container: %s", plainRuntimeError(err))
	}
	ctr.releaseFifos()
	ctr.change(shimapi.EventStarted, func(rec *shimapi.Record) {
		rec.Status, rec.StartedAt = shimapi.StatusRunning, started
	})
	return nil
}

// cancelAtEnd cancels a call to the foreign shim that goes on for some time after the end of
// the container, which is not recorded meanwhile. The returned function ends the watch.
func (ctr *container) cancelAtEnd(ctx context.Context, cancel func()) (stop func()) {
	p, ok := ctr.process.(*taskProcess)
	if !ok {
		return func() {}
	}
	watching, stop := context.WithCancel(ctx)
	go func() {
		select {
		case <-p.over:
		case <-watching.Done():
			return
		}
		select {
		case <-time.After(stuckGrace): // a command that ends at once may have ended before the answer
			cancel()
		case <-watching.Done():
		}
	}()
	return stop
}

// releaseFifos is called when the foreign shim has opened its ends of the fifos, or will not
// any more.
func (ctr *container) releaseFifos() {
	if ctr.fifos != nil {
		ctr.fifos.release()
	}
}

// signalTask sends a signal by the foreign shim.
func (ctr *container) signalTask(sig syscall.Signal, all bool) error {
	p := ctr.process.(*taskProcess)
	if ctr.status() == shimapi.StatusCreated && sig == unix.SIGKILL {
		all = true
	}
	err := p.signalAll(sig, all)
	inGroups := all && sig == unix.SIGKILL && ctr.groups.dir() != ""
	if inGroups { // also what is frozen, or what the runtime does not see
		if err := ctr.groups.killAll(); err != nil {
			return err // the kernel does not let it end, which is no fault of the shim
		}
	}
	if sig == unix.SIGKILL {
		err = ctr.sandbox.followKill(ctr.id, p, err)
	}
	switch {
	case inGroups:
		return nil
	case isGone(err) && all:
		return nil
	case isGone(err):
		return fault(shimapi.KindNotRunning, "container %s has ended", ctr.id)
	}
	return err
}

// deleteGrace is how long a foreign shim may take to forget a container that has ended. It is
// less than the daemon waits for this process (answerPatience in package shims) before it
// counts as stuck itself, with the pods of every other foreign shim that it drives.
const deleteGrace = 30 * time.Second

// deleteTask makes the foreign shim forget a container that has ended, or ends by the shim's
// program what a shim that is gone has left.
func (ctr *container) deleteTask() error {
	if ctr.reclaimed.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), deleteGrace)
	defer cancel()
	err := ctr.task.Delete(ctx)
	switch {
	case err == nil, isGone(err):
		return nil
	case errors.Is(err, context.DeadlineExceeded) && ctr.sandbox.isStuck(ctr.id):
		// The next try ends the rest by the shim's program: there is no time for that now.
		return errors.Join(err, ctr.sandbox.endStuck())
	case ctr.lost != nil && isClosed(ctr.sandbox.shim.Gone()):
		_, err = ctr.lost()
	}
	return err
}

// updateTask changes limits by the foreign shim.
func (ctr *container) updateTask(r shimapi.UpdateRequest) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace) // an exit is not recorded meanwhile
	defer cancel()
	if err := ctr.task.Update(ctx, r.Resources); err != nil {
		return fault(updateKind(err), "update limits: %w", err)
	}
	if r.OOMScoreAdj == nil || len(ctr.groups) == 0 {
		return nil
	}
	spec, err := specOf(ctr.bundle)
	if err != nil {
		return fmt.Errorf("update limits: what the container was made with is not known: %w", err)
	}
	was := spec.Process.OOMScoreAdj
	spec.Process.OOMScoreAdj = r.OOMScoreAdj
	raw, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := writeBundle(ctr.bundle, raw); err != nil {
		return err
	}
	return ctr.groups.adjustOOM(was, *r.OOMScoreAdj)
}
