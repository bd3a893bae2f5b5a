package procfs

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A wait returns at the end of a process, of its context and of the pidfd, and no earlier, also
// with a pidfd that Go's poller did not accept, as when the user has no more watches.
func TestAwaitEnd(t *testing.T) {
	for name, flags := range map[string]int{"polled": unix.PIDFD_NONBLOCK, "by a thread": 0} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("sleep", "60")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Wait() }()
			fd, err := unix.PidfdOpen(cmd.Process.Pid, flags)
			if err != nil {
				t.Fatal(err)
			}
			pidfd := os.NewFile(uintptr(fd), "pidfd")
			defer pidfd.Close()
			soon, cancel := context.WithTimeout(t.Context(), 2*sleepTime)
			defer cancel()
			if err := AwaitEnd(soon, pidfd); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("while it runs: %v, want the end of the context", err)
			}
			if flags == unix.PIDFD_NONBLOCK {
				if err := pidfd.SetReadDeadline(time.Time{}); err != nil {
					t.Fatal(err)
				}
			}
			ended := make(chan error, 1)
			go func() { ended <- AwaitEnd(t.Context(), pidfd) }()
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil || !HasEnded(fd) {
				t.Errorf("at its end: %v, want nil", err)
			}
			go func() { ended <- Await(t.Context(), pidfd, func(int) bool { return false }) }()
			_ = pidfd.Close()
			if err := <-ended; err == nil {
				t.Error("of a closed pidfd: no error")
			}
		})
	}
}
