package shim

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"berth/oci/procfs"
	"berth/test/fewfiles"
)

// runsUntilClosed starts a child that ends by itself once its input is closed.
func runsUntilClosed(t *testing.T) (*exec.Cmd, io.Closer) {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, in
}

// A failed start ends what it has left, but no child from before it, and nothing at all when
// those are not known.
func TestAFailedStartEndsNoOtherChild(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := os.Stat("/proc/thread-self/children"); err != nil {
		t.Skip(err)
	}
	earlier, in := runsUntilClosed(t)
	enough := fewfiles.Spare(t, 0)
	w := watchStart()
	enough()
	w.end(errors.New("failed"))
	w = watchStart()
	left := exec.Command("sleep", "60")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := openPidfd(left.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	w.end(errors.New("failed"))
	if err := procfs.AwaitEnd(t.Context(), pidfd); err != nil {
		t.Errorf("the child that the start has left: %v", err)
	}
	if err := errors.Join(in.Close(), earlier.Wait()); err != nil {
		t.Errorf("the child from before: %v, want that it ends by itself", err)
	}
}
