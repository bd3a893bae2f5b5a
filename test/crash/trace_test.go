package crash

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/test/client"
)

// tracer follows a process from system call to system call and kills it on its
// way into the n-th that changes something outside of it. Threads are followed,
// children are not.
type tracer struct {
	pid, stopAt int
	below       string        // writes to files below this directory are steps
	ended       chan struct{} // closed when the process has

	mu    sync.Mutex
	steps []string
	syncs []string // flushes to disk, each with its file below that directory
	fired bool
}

// trace returns when every thread of the process is followed.
func trace(t *testing.T, pid, stopAt int, below string) *tracer {
	t.Helper()
	tr := &tracer{pid: pid, stopAt: stopAt, below: below + "/", ended: make(chan struct{})}
	attached := make(chan error, 1)
	tracers <- func() { tr.run(attached) }
	select {
	case err := <-attached:
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			t.Skipf("processes can't be traced here: %v", err)
		} else if err != nil {
			t.Fatalf("trace: %v", err)
		}
	case <-time.After(client.Patience):
		t.Fatalf("after %v process %d is not followed yet", client.Patience, pid)
	}
	return tr
}

// killed waits for the end of the process and tells the step it did not take;
// "" when it was killed otherwise.
func (tr *tracer) killed(t *testing.T) string {
	t.Helper()
	<-tr.ended
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.fired {
		return tr.steps[len(tr.steps)-1]
	}
	return ""
}

// tracers takes what is to be done on a thread of tracers.
var tracers = make(chan func())

// startTracers makes threads that trace, and do nothing else. It must be called
// before the first process is started: to its tracer a thread's tracees are as its
// children, and a wait for any of them would take other people's away.
func startTracers() {
	for range 4 { // as many tests as may run side by side
		go func() {
			runtime.LockOSThread()
			for job := range tracers {
				job()
			}
		}()
	}
}

// run is done on a thread of tracers: the kernel ties tracees to it. It ends with
// the process.
func (tr *tracer) run(attached chan<- error) {
	defer close(tr.ended)
	waiting, err := tr.seize()
	if err != nil || len(waiting) == 0 {
		attached <- errors.Join(err, errIf(err == nil, "no threads"))
		return
	}
	// seen: the thread has stopped, and is followed from there, or has ended before it could.
	seen := func(tid int) {
		if waiting[tid] {
			if delete(waiting, tid); len(waiting) == 0 {
				attached <- nil
			}
		}
	}
	for {
		var ws unix.WaitStatus
		// Not the children of other threads: those are other people's.
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil && ws.Stopped():
			tr.resume(tid, ws)
			seen(tid)
		case err == nil && tid != tr.pid: // a thread has ended
			seen(tid)
		default: // the first thread, which is the last to be told of
			if len(waiting) > 0 {
				attached <- errors.Join(err, errIf(err == nil, "it has ended"))
			}
			return
		}
	}
}

func errIf(bad bool, text string) error {
	if bad {
		return errors.New(text)
	}
	return nil
}

const (
	ptraceOptions  = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
	syscallStop    = unix.SIGTRAP | 0x80
	getSyscallInfo = 0x420e // PTRACE_GET_SYSCALL_INFO, Linux 5.3
)

// seize attaches to all threads, also to those that come meanwhile, and stops
// each once so that it is followed from a known point.
func (tr *tracer) seize() (map[int]bool, error) {
	seized := map[int]bool{}
	for fresh := true; fresh; {
		fresh = false
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", tr.pid))
		if err != nil {
			return nil, err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(filepath.Base(task))
			if err != nil || seized[tid] {
				continue
			}
			err = ptrace(unix.PTRACE_SEIZE, tid, 0, ptraceOptions)
			switch {
			case errors.Is(err, unix.ESRCH):
				continue
			case errors.Is(err, unix.EPERM) && tracedBy(tid) == unix.Gettid():
				continue // followed since its creation
			case err != nil:
				return nil, err
			}
			fresh, seized[tid] = true, true
		}
	}
	for tid := range seized {
		if err := ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, err
		}
	}
	return seized, nil
}

func ptrace(request, tid int, addr, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func tracedBy(tid int) int {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	_, rest, _ := bytes.Cut(data, []byte("\nTracerPid:\t"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	tracer, _ := strconv.Atoi(string(line))
	return tracer
}

// resume lets a stopped thread go on, or kills the process instead.
func (tr *tracer) resume(tid int, ws unix.WaitStatus) {
	sig, event := ws.StopSignal(), int(ws)>>16
	switch {
	case sig == syscallStop:
		if tr.step(tid) {
			return // SIGKILL makes it go on, to its end
		}
		sig = 0
	case event == unix.PTRACE_EVENT_STOP && (sig == unix.SIGSTOP || sig == unix.SIGTSTP || sig == unix.SIGTTIN || sig == unix.SIGTTOU):
		_ = ptrace(unix.PTRACE_LISTEN, tid, 0, 0) // it stays stopped, as it was told
		return
	case event != 0:
		sig = 0
	}
	_ = ptrace(unix.PTRACE_SYSCALL, tid, 0, uintptr(sig)) // gone meanwhile: good
}

// step counts a system call that is about to happen and tells whether it was
// the last.
func (tr *tracer) step(tid int) bool {
	var info struct {
		op   uint8
		_    [3]uint8
		arch uint32
		_    [2]uint64 // instruction and stack pointer
		nr   uint64
		args [6]uint64
		_    [2]uint64
	}
	if ptrace(getSyscallInfo, tid, unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info))) != nil || info.op != 1 { // 1: entry
		return false
	}
	text, flush := tr.describe(info.nr, info.args), tr.flush(info.nr, info.args)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if flush != "" {
		tr.syncs = append(tr.syncs, flush)
	}
	if text == "" || len(tr.steps) > 0 && text == tr.steps[len(tr.steps)-1] && strings.Contains(text, "/") {
		return false // os.Remove unlinks, which a directory refuses, then removes
	}
	tr.steps = append(tr.steps, text)
	if len(tr.steps) != tr.stopAt {
		return false
	}
	tr.fired = true
	_ = unix.Kill(tr.pid, unix.SIGKILL)
	return true
}

// call is a system call that changes the world; path is the argument that names
// what, -1: none does.
type call struct {
	name string
	path int
}

var calls = map[uint64]call{
	unix.SYS_MKDIRAT: {"mkdir", 1}, unix.SYS_UNLINKAT: {"unlink", 1}, unix.SYS_SYMLINKAT: {"symlink", 2}, unix.SYS_LINKAT: {"link", 3},
	unix.SYS_RENAMEAT: {"rename", 3}, unix.SYS_RENAMEAT2: {"rename", 3},
	unix.SYS_FCHMODAT: {"chmod", 1}, unix.SYS_FCHOWNAT: {"chown", 1},
	unix.SYS_MOUNT: {"mount", 1}, unix.SYS_UMOUNT2: {"unmount", 0}, unix.SYS_MOVE_MOUNT: {"mount", 3},
	unix.SYS_FSYNC: {"fsync", -1}, unix.SYS_SYNCFS: {"syncfs", -1},
	unix.SYS_CONNECT: {"call", -1}, unix.SYS_CLONE3: {"start a process", -1},
	unix.SYS_PIDFD_SEND_SIGNAL: {"kill", -1},
}

// describe names a system call that changes the world; "" for the others.
func (tr *tracer) describe(nr uint64, args [6]uint64) string {
	c, ok := calls[nr]
	switch nr {
	case unix.SYS_OPENAT:
		c, ok = call{"make", 1}, args[2]&unix.O_CREAT != 0
	case unix.SYS_CLONE:
		c, ok = call{"start a process", -1}, args[0]&unix.CLONE_THREAD == 0
	case unix.SYS_WRITE:
		file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tr.pid, args[0]))
		if err == nil && strings.HasPrefix(file, tr.below) && !strings.HasSuffix(file, ".log") {
			return "write " + file
		}
	}
	switch {
	case !ok:
		return ""
	case c.path < 0:
		return c.name
	}
	// The hierarchies of v1 go through the same, ten times.
	return c.name + " " + hierarchy.ReplaceAllString(readString(tr.pid, uintptr(args[c.path])), "/sys/fs/cgroup/*/")
}

var hierarchy = regexp.MustCompile("^/sys/fs/cgroup/[^/]+/")

func readString(pid int, at uintptr) string {
	buf := make([]byte, 256)
	local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
	remote := []unix.RemoteIovec{{Base: at, Len: len(buf)}}
	n, err := unix.ProcessVMReadv(pid, local, remote, 0)
	if err != nil {
		return "?"
	}
	text, _, _ := bytes.Cut(buf[:n], []byte{0})
	return string(text)
}

// The tracer is trusted with the whole matrix: it must count right and kill
// before the call, not after.
func TestTracerKillsBeforeTheStep(t *testing.T) {
	for n, want := range []string{"", "a", "a b"} {
		dir := t.TempDir()
		// A grandchild: what a thread of ours reaps is lost to the others.
		sh := exec.Command("sh", "-c", `sh -c 'read go; : >a; : >b; : >c' <&3 & echo $!; wait $!; echo $?`)
		sh.Dir = dir
		out, err := sh.StdoutPipe()
		read, write, perr := os.Pipe()
		if err := errors.Join(err, perr); err != nil {
			t.Fatal(err)
		}
		sh.ExtraFiles = []*os.File{read}
		if err := sh.Start(); err != nil {
			t.Fatal(err)
		}
		said := bufio.NewScanner(out)
		said.Scan()
		pid, err := strconv.Atoi(said.Text())
		if err != nil {
			t.Fatal(err)
		}
		tr := trace(t, pid, n+1, dir)
		if _, err := write.WriteString("go\n"); err != nil {
			t.Fatal(err)
		}
		if said.Scan(); said.Text() != "137" {
			t.Errorf("ended with %s, want SIGKILL", said.Text())
		}
		if step := tr.killed(t); step != "make "+[]string{"a", "b", "c"}[n] {
			t.Errorf("killed before %q", step)
		}
		got, _ := filepath.Glob(filepath.Join(dir, "*"))
		for i := range got {
			got[i] = filepath.Base(got[i])
		}
		if names := strings.Join(got, " "); names != want {
			t.Errorf("killed at step %d, files %q, want %q", n+1, names, want)
		}
		_ = sh.Wait()
		_ = read.Close()
		_ = write.Close()
	}
}
