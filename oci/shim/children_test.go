package shim

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"berth/oci/procfs"
	"berth/test/fewfiles"
)

// A failed start ends what it has left, but no child from before it, and nothing at all when
// those are not known.
func TestAFailedStartEndsNoOtherChild(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := os.Stat("/proc/thread-self/children"); err != nil {
		t.Skip(err)
	}
	earlier := exec.Command("cat")
	in, err := earlier.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := earlier.Start(); err != nil {
		t.Fatal(err)
	}
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
