package shim

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// startReaping starts a process and, when that fails, ends what it left behind.
//
// libcontainer starts three processes for each one wanted, which are all children of
// the shim: the first clones its siblings (CLONE_PARENT, clone(2)) and tells their
// numbers late. When the container ends meanwhile it may know none of them. Nobody
// would wait for these; one that had joined the container's PID namespace would keep
// the first process there from ending, which waits for all others
// (zap_pid_ns_processes in kernel/pid_namespace.c).
//
// The kernel lists children by the thread that cloned them, and no other goroutine
// runs on this one: what is new in the list is what this start left.
func startReaping(lc *libcontainer.Container, proc *libcontainer.Process) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadChildren()
	err := lc.Start(proc)
	if err == nil {
		return nil
	}
	for _, pid := range threadChildren() {
		if !slices.Contains(before, pid) {
			go reap(pid)
		}
	}
	return err
}

// threadChildren are the children that the calling thread cloned and nobody waited
// for yet; none on kernels without CONFIG_PROC_CHILDREN.
func threadChildren() []int {
	list, err := os.ReadFile("/proc/thread-self/children")
	if err != nil {
		return nil
	}
	var all []int
	for field := range bytes.FieldsSeq(list) {
		if pid, err := strconv.Atoi(string(field)); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// reap kills and waits for a child of ours, whose number is its own until then.
func reap(pid int) {
	err := unix.Kill(pid, unix.SIGKILL) // one that has ended is still there
	for {
		_, werr := unix.Wait4(pid, nil, 0, nil)
		if errors.Is(werr, unix.EINTR) {
			continue
		}
		if err = errors.Join(err, werr); err != nil {
			slog.Error("a child that was left is not reaped", "pid", pid, "error", err)
		}
		return
	}
}
