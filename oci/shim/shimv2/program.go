package shimv2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
		err := context.Cause(ctx)
		if kill := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); kill != nil && !errors.Is(kill, unix.ESRCH) {
			err = errors.Join(err, kill)
		}
		return err
	}
	cmd.WaitDelay = time.Second // a shim in the background may have kept the pipes
	return cmd
}

// output runs a program and returns what it prints to stdout. One that prints too much is
// killed by SIGPIPE or by the end of its context.
func output(cmd *exec.Cmd, input []byte) ([]byte, error) {
	stdout, stderr := &bounded{flood: errFlood}, &bounded{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), stdout, stderr
	err := cmd.Run()
	switch {
	case stdout.full:
		return nil, errFlood
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return stdout.kept.Bytes(), nil
	case errors.Is(err, context.DeadlineExceeded):
		err = errors.New("it did not end in time and was killed; see whether it runs by hand")
	}
	if said := strings.TrimSpace(stderr.kept.String() + " " + stdout.kept.String()); said != "" {
		err = fmt.Errorf("%w: %.*s", err, maxSaid, said)
	}
	return nil, err
}

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
