package shims

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Only a connection that was hung up is a reason to wait for the death of the shim. A dial
// that fails for a reason of our own, such as too many open files, is not.
func TestOnlyAHangupIsWaitedFor(t *testing.T) {
	for err, want := range map[error]bool{
		io.EOF: true, fmt.Errorf("read: %w", os.NewSyscallError("read", unix.ECONNRESET)): true, unix.ENOENT: true,
		unix.EMFILE: false, os.ErrDeadlineExceeded: false, context.Canceled: false,
	} {
		if isHangup(err) != want {
			t.Errorf("%v: waits for the shim's end: %t", err, !want)
		}
	}
	p := &process{shim: &Shim{id: "s", set: &Set{}}, followed: true, gone: make(chan struct{})}
	began := time.Now()
	_ = p.explain(t.Context(), unix.EMFILE)
	if took := time.Since(began); took >= dyingPatience {
		t.Errorf("an error of our own took %v", took)
	}
}
