package shimv2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/failure"
	"berth/oci/shimapi"
)

const (
	// maxAnswer bounds what a program may print to stdout, and what is kept of its stderr, in
	// bytes.
	maxAnswer = 64 << 10
	// maxSaid is how much of what a program has printed an error repeats, in bytes.
	maxSaid = 4 << 10
)

// errFlood is the error of a program that prints more than maxAnswer.
var errFlood = fmt.Errorf("it prints more than %d KiB", maxAnswer>>10)

// groupCommand is exec.CommandContext for a program that has a process group of its own, all
// of which is killed when ctx ends.
func groupCommand(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); err != nil {
			return os.ErrProcessDone
		}
		return nil
	}
	cmd.WaitDelay = time.Second // a shim in the background may have kept the pipes
	return cmd
}

// output runs a program and returns what it prints to stdout. One that prints too much is
// killed by SIGPIPE or by the end of ctx, that of the command. place is of runPlaced.
func output(ctx context.Context, cmd *exec.Cmd, input []byte, place func(pid int) error) ([]byte, error) {
	stdout, stderr := &bounded{flood: errFlood}, &bounded{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), stdout, stderr
	err := runPlaced(cmd, place)
	switch {
	case stdout.full:
		return nil, errFlood
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return stdout.kept.Bytes(), nil
	case ctx.Err() != nil:
		err = failure.New(ctx.Err(), "it did not end in time and was killed; see whether it runs by hand")
	}
	if said := strings.TrimSpace(stderr.kept.String() + " " + stdout.kept.String()); said != "" {
		err = fmt.Errorf("%w: %.*s", err, maxSaid, said)
	}
	return nil, err
}

// runPlaced runs a program. Before its first instruction it calls place, unless that is nil,
// so that all that the program and its children use is accounted where place puts it: the
// program stops as it is executed, since it is traced until then (PTRACE_TRACEME in
// ptrace(2)).
func runPlaced(cmd *exec.Cmd, place func(pid int) error) error {
	if place == nil {
		return cmd.Run()
	}
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr.Ptrace = true
	if err := cmd.Start(); err != nil {
		return err
	}
	err := awaitTrap(cmd.Process.Pid)
	if err == nil {
		err = place(cmd.Process.Pid)
	}
	if err == nil {
		err = unix.PtraceDetach(cmd.Process.Pid)
	}
	if err != nil {
		_ = cmd.Cancel() // it may have been ended just now
		return errors.Join(err, cmd.Wait())
	}
	return cmd.Wait()
}

// awaitTrap waits until a program is stopped where it begins. One that was killed before is
// left to be waited for.
func awaitTrap(pid int) error {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the program to begin: %w", err)
		case info.Code != cldTrapped:
			return errors.New("it ended before it began")
		default:
			return nil
		}
	}
}

// cldTrapped is CLD_TRAPPED of waitid(2): a traced child has stopped.
const cldTrapped = 4

// bounded keeps the first maxAnswer bytes that are written to it. More is dropped, or with
// flood refused by that error. The buffer is not embedded: it would be read into past Write.
type bounded struct {
	kept  bytes.Buffer
	flood error
	full  bool
}

// Write implements [io.Writer].
func (w *bounded) Write(p []byte) (int, error) {
	room := max(0, maxAnswer-w.kept.Len())
	w.kept.Write(p[:min(room, len(p))])
	if len(p) > room {
		w.full = true
		return len(p), w.flood
	}
	return len(p), nil
}

// podVariable names the pod in the environment of its shim. A program that gives no PID, or
// dies before it does, is found by it.
const podVariable = "BERTH_POD"

// belongs tells whether a process is of the shim of a pod: it has inherited podVariable, or
// names the pod in its arguments, as shims do. The error is want of descriptors or memory.
func belongs(pid int, pod string) (bool, error) {
	for file, wants := range map[string]string{"environ": podVariable + "=" + pod, "cmdline": pod} {
		// Of a process that may be ended: its parts are long, and the pod's name comes early.
		text, err := readStart(fmt.Sprintf("/proc/%d/%s", pid, file))
		if failure.IsShortage(err) {
			return false, err
		}
		for part := range bytes.SplitSeq(text, []byte{0}) {
			if string(part) == wants {
				return true, nil
			}
		}
	}
	return false, nil
}

// readStart reads at most 2 MiB, the most that arguments and environment have
// (execve(2)).
func readStart(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 2<<20))
}

// killNow ends the process that has this PID now.
func killNow(pid int) error {
	began, err := shimapi.StartTime(pid)
	if failure.IsShortage(err) {
		return err
	}
	if err != nil {
		return nil //nolint:nilerr // it has ended
	}
	return address{PID: pid, StartTime: began}.kill(0)
}

// killOf kills every process of the shim of a pod that can be found. It is for shims whose
// own PID is not known.
func killOf(pod string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("processes of the shim: %w", err)
	}
	var errs []error
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		ours, err := belongs(pid, pod)
		if err == nil && ours {
			err = killNow(pid)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
