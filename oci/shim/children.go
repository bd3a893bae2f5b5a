package shim

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// startWatch watches the start of a process for children that a failed start leaves behind.
//
// For each process libcontainer starts two more, and all three are children of the shim: the
// first clones the others (CLONE_PARENT, clone(2)) and reports their PIDs late. If the
// container ends meanwhile, libcontainer may not know them and would not wait for them. One
// that had joined the container's PID namespace would keep PID 1 there from ending, which
// waits for all others (zap_pid_ns_processes in kernel/pid_namespace.c).
//
// The kernel lists children by the thread that cloned them, and no other goroutine runs on
// this thread meanwhile. So the new entries of the list are what this start has left.
type startWatch struct {
	before []int
	err    error // why before is not known
}

// watchStart locks the goroutine to its thread until [startWatch.end]. If a panic comes
// between the two, the thread ends with the goroutine.
func watchStart() startWatch {
	runtime.LockOSThread()
	before, err := threadChildren()
	return startWatch{before, err}
}

// end kills and reaps what the start has left, if err says that it has failed. It does nothing
// when what was there before is not known, which may be containers.
func (w startWatch) end(err error) {
	defer runtime.UnlockOSThread()
	if err == nil {
		return
	}
	after, lerr := threadChildren()
	if lerr = errors.Join(w.err, lerr); lerr != nil {
		slog.Warn("what a failed start has left is not known", "error", lerr)
		return
	}
	for _, pid := range after {
		if !slices.Contains(w.before, pid) {
			go reap(pid)
		}
	}
}

// threadChildren lists the children that the calling thread has cloned and that were not
// waited for. Kernels without CONFIG_PROC_CHILDREN have no such list.
func threadChildren() ([]int, error) {
	list, err := os.ReadFile("/proc/thread-self/children")
	if err != nil {
		return nil, fmt.Errorf("children of this thread: %w", err)
	}
	var all []int
	for field := range bytes.FieldsSeq(list) {
		pid, err := strconv.Atoi(string(field))
		if err != nil {
			return nil, fmt.Errorf("children of this thread: %w", err)
		}
		all = append(all, pid)
	}
	return all, nil
}

// reap kills a child and waits for it. Until then no other process can have its PID.
func reap(pid int) {
	err := unix.Kill(pid, unix.SIGKILL) // no error for a zombie
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
