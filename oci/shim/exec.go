package shim

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
	"berth/oci/failure"
	"berth/oci/shimapi"
)

// session is one exec: a process and all it starts, in a cgroup of its own.
type session struct {
	proc  child
	pid   int
	group *subgroup
	task  TaskProcess // of a foreign shim: only this and perhaps group are set
}

// sessions are the execs of one container that have not ended, by ID. The zero value is
// ready for use.
type sessions struct {
	mu   sync.Mutex
	byID map[string]*session
}

// add returns false if there is a session with this ID already.
func (s *sessions) add(id string, x *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[string]*session{}
	}
	if s.byID[id] != nil {
		return false
	}
	s.byID[id] = x
	return true
}

func (s *sessions) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
}

func (s *sessions) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id] != nil
}

// setPID is called when the process of a session has started.
func (s *sessions) setPID(x *session, pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.pid = pid
}

// setTask is called when the process of a session of a foreign shim has started.
func (s *sessions) setTask(x *session, t *taskSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.task, x.group = t.process, t.group
}

// started returns a session whose process has started, or nil.
func (s *sessions) started(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.byID[id]; x != nil && (x.pid > 0 || x.task != nil) {
		return x
	}
	return nil
}

// The name of a session's cgroup is its ID between these two. cAdvisor takes every cgroup below
// the kubelet's for a container, with a series of its own, but for names with this end, which
// systemd gives to mounts.
const (
	sessionPrefix = "exec-"
	sessionSuffix = ".mount"
)

// sessionCgroup names the cgroup of a session, and sessionOf is its inverse; a shim of an older
// release left the suffix out.
func sessionCgroup(id string) string { return sessionPrefix + id + sessionSuffix }

func sessionOf(cgroup string) string {
	return strings.TrimSuffix(strings.TrimPrefix(cgroup, sessionPrefix), sessionSuffix)
}

// isSessionName reports whether id can be part of a file name.
func isSessionName(id string) bool {
	letters := strings.TrimFunc(id, func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	})
	return len(id) > 0 && len(id) <= 64 && letters == ""
}

// execs carries out the verb exec.
type execs struct{ registry *registry }

// exec runs a command in a running container. It answers twice: when the command has
// started, and when it has ended.
func (e execs) exec(c *call, r shimapi.ExecRequest) (any, error) {
	ctr, err := e.registry.running(r.ID)
	if err != nil {
		return nil, err
	}
	if err := checkExec(ctr, r, len(c.files)); err != nil {
		return nil, err
	}
	if ctr.task != nil {
		return ctr.execTask(c, r)
	}
	go prepayRCU()
	end := c.stages.begin("process")
	x, console, err := ctr.startSession(r, c.files)
	end()
	if err != nil {
		return nil, err
	}
	defer ctr.endSession(r.ExecID, x)
	for _, f := range c.files {
		_ = f.Close() // the process has duplicates
	}
	c.files = nil
	var pass []*os.File
	if console != nil {
		pass = append(pass, console)
	}
	answered := c.answer(shimapi.ExecStarted{PID: x.pid}, nil, pass...)
	if console != nil {
		// From here only the client has the master, so its end hangs the terminal up.
		_ = console.Close()
	}
	gone := c.hungUp()
	if answered != nil {
		x.end()
	}
	status, err := x.wait(gone, r.Timeout)
	if err != nil || status.TimedOut {
		return status, err // when all that the command started is gone, see endSession
	}
	// The client of a command that ended by itself does not wait for the end of its cgroup.
	_ = c.answer(status, nil) // an error: the client has hung up
	return nil, errAnswered
}

func checkExec(ctr *container, r shimapi.ExecRequest, files int) error {
	want := 3
	if r.Terminal {
		want = 0
	}
	switch {
	case ctr.status() != shimapi.StatusRunning:
		return fault(shimapi.KindNotRunning, "container %s is %s, not running", r.ID, ctr.status())
	case !isSessionName(r.ExecID):
		return fault(shimapi.KindInvalid, "exec ID %q is not 1 to 64 letters, digits, - or _", r.ExecID)
	case r.Process == nil || len(r.Process.Args) == 0:
		return fault(shimapi.KindInvalid, "exec names no command")
	case files != want:
		return fault(shimapi.KindInvalid, "exec with terminal=%v needs %d files, got %d", r.Terminal, want, files)
	}
	return nil
}

func (ctr *container) startSession(r shimapi.ExecRequest, files []*os.File) (*session, *os.File, error) {
	proc, err := libcontainerProcess(r.Process)
	if err != nil {
		return nil, nil, fault(shimapi.KindInvalid, "exec: %w", err)
	}
	x := &session{proc: proc}
	if !ctr.sessions.add(r.ExecID, x) {
		return nil, nil, fault(shimapi.KindExists, "exec %s is running already", r.ExecID)
	}
	console, err := ctr.launchSession(x, proc, r, files)
	if err != nil {
		ctr.endSession(r.ExecID, x)
		return nil, nil, err
	}
	return x, console, nil
}

func (ctr *container) launchSession(x *session, proc *libcontainer.Process, r shimapi.ExecRequest, files []*os.File) (*os.File, error) {
	for _, f := range files {
		// The client may have made these descriptors non-blocking; the container's process
		// expects blocking ones.
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			return nil, err
		}
	}
	if err := ctr.ownPipes(files); err != nil {
		return nil, err
	}
	sub, err := ctr.groups.newSubgroup(sessionCgroup(r.ExecID))
	if err != nil {
		return nil, ctr.sessionFault(err)
	}
	x.group = sub
	proc.SubCgroupPaths = sub.paths
	console, err := startProcess(ctr.lc, proc, files, r.Terminal)
	if err != nil {
		return nil, ctr.sessionFault(err)
	}
	pid, _ := proc.Pid() // no error: it was started
	ctr.sessions.setPID(x, pid)
	return console, nil
}

// sessionFault is why a session could not be started.
func (ctr *container) sessionFault(err error) error { return ctr.faultSince(startFault(err)) }

// faultSince is why something could not be done to a container. A container that ends
// meanwhile takes away all that it needs: its first process, and its cgroup, which systemd
// removes as soon as it is empty.
func (ctr *container) faultSince(err error) error {
	if isInternal(err) && ctr.endsSoon() {
		return fault(shimapi.KindNotRunning, "container %s has ended", ctr.id)
	}
	return err
}

// ownPipes makes the container's root the owner of the pipes of a session, as of those of
// its first process. In a user namespace no process could open /dev/stdout or /dev/stderr
// again if the pipes belonged to the host's root.
func (ctr *container) ownPipes(files []*os.File) error {
	config := ctr.lc.Config()
	owner, err := rootOwner(&config)
	if err != nil || owner == [2]int{} {
		return err
	}
	for _, f := range files {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return fmt.Errorf("look at a stream of the session: %w", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFIFO {
			continue // /dev/null of the host stays as it is
		}
		if err := unix.Fchown(int(f.Fd()), owner[0], owner[1]); err != nil {
			return fmt.Errorf("give a pipe of the session to the container's root: %w", err)
		}
	}
	return nil
}

// endGrace is how long a container whose first process was killed may take to end; on a
// busy machine the kernel needs more than a second.
const endGrace = 3 * time.Second

// endsSoon reports whether the container has ended or is about to end. That explains a
// failure that has no reason that the user could mend. The end is recorded by then, unless
// the container's output takes longer than [drainGrace].
func (ctr *container) endsSoon() bool {
	select {
	case <-ctr.done:
		return true
	case <-time.After(endGrace):
	}
	if ctr.process.alive() {
		return false
	}
	select {
	case <-ctr.done:
	case <-time.After(drainGrace):
	}
	return true
}

func isInternal(err error) bool {
	kind := asWireError(err).Kind
	return kind == shimapi.KindInternal || kind == shimapi.KindShortage
}

func (ctr *container) endSession(id string, x *session) {
	ctr.sessions.remove(id)
	if x.group != nil {
		x.group.remove()
	}
}

// end kills everything that the session started. It tries for as long as it lacks what it
// takes, such as descriptors: nobody else would end the session.
func (x *session) end() {
	for {
		err := x.group.killAll()
		if err != nil {
			slog.Error("exec left processes", "error", err)
		}
		if !failure.IsShortage(err) {
			return
		}
	}
}

// expiry is when the timeout of an exec has passed; never if it is not positive. stop
// releases the timer.
func expiry(timeout time.Duration) (late <-chan time.Time, stop func()) {
	if timeout <= 0 {
		return nil, func() {}
	}
	timer := time.NewTimer(timeout)
	return timer.C, func() { timer.Stop() }
}

// wait returns how the session's process ended. It kills the whole session when the client
// hangs up or the timeout has passed.
func (x *session) wait(gone <-chan struct{}, timeout time.Duration) (status shimapi.ExitStatus, err error) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		status, err = x.reap()
	}()
	late, stop := expiry(timeout)
	defer stop()
	timedOut := false
	select {
	case <-ended:
	case <-late:
		timedOut = true
		x.end()
	case <-gone:
		x.end()
	}
	<-ended
	status.TimedOut = timedOut
	return status, err
}

// reap waits for the session's process, in Go's poller first, see started.wait.
func (x *session) reap() (shimapi.ExitStatus, error) {
	if err := awaitEnd(x.pid); err != nil {
		slog.Error("exec not watched, waiting with a thread", "error", err)
	}
	state, err := x.proc.Wait()
	status := shimapi.ExitStatus{FinishedAt: time.Now()}
	status.Code, status.Signal = exitCode(state)
	if state != nil {
		err = nil // it only says how the process ended, as the status does
	}
	return status, err
}

func (ctr *container) killSession(id string, sig syscall.Signal, all bool) error {
	x := ctr.sessions.started(id)
	switch {
	case x == nil:
		return fault(shimapi.KindNotFound, "container %s has no exec %s", ctr.id, id)
	case x.task != nil:
		return ctr.signalSession(x, sig, all)
	case all && sig == unix.SIGKILL:
		return x.group.killAll()
	case all:
		return cgroup.Signal(x.group.dir, sig)
	}
	err := x.proc.Signal(sig)
	if isGone(err) {
		return fault(shimapi.KindNotRunning, "exec %s has ended", id)
	}
	return err
}
