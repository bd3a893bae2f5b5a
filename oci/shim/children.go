package shim

import (
	"bytes"
	"errors"
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
type startWatch struct{ before []int }

// watchStart locks the goroutine to its thread until [startWatch.end]. If a panic comes
// between the two, the thread ends with the goroutine.
func watchStart() startWatch {
	runtime.LockOSThread()
	return startWatch{threadChildren()}
}

// end kills and reaps what the start has left, if err says that it has failed.
func (w startWatch) end(err error) {
	defer runtime.UnlockOSThread()
	if err == nil {
		return
	}
	for _, pid := range threadChildren() {
		if !slices.Contains(w.before, pid) {
			go reap(pid)
		}
	}
}

// threadChildren lists the children that the calling thread has cloned and that were not
// waited for. It is empty on kernels without CONFIG_PROC_CHILDREN.
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
