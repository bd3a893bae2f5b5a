package integration

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// S22: exec in every state of a container. Codes and output in a running one are
// in [TestExecSync], what has ended or was never started in
// [TestExecNeedsARunningContainer], a child that is quiet in
// [TestExecWithALeftChildReturns].
func TestS22Exec(t *testing.T) {
	t.Run("stopping", s22Stopping)
	t.Run("left child", s22LeftChild)
	t.Run("64 MiB", s22Large)
	t.Run("timeout", s22Timeout)
}

// s22Stopping: it works until the container ends, and ends with it.
func s22Stopping(t *testing.T) {
	o := pidMode(runtimeapi.NamespaceMode_CONTAINER)
	c := shared.pod(t, namespaces(o)).start("c", "trap 'echo term' TERM; echo ready; while :; do sleep 0.05; done", sameNamespaces(o))
	c.says(" F ready\n")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.Stop(patience / 2)
	}()
	c.says(" F term\n")
	if r, err := c.execSync(2, "sh", "-c", "echo still; exit 42"); err != nil || r.GetExitCode() != 42 || string(r.GetStdout()) != "still\n" {
		t.Errorf("while it is being stopped: %v, %v", r, err)
	}
	killed := make(chan string, 1)
	go func() {
		r, err := c.execSync(0, "sh", "-c", "echo before; echo running > /proc/1/fd/1; sleep 1000")
		killed <- fmt.Sprintf("%d %q %v", r.GetExitCode(), r.GetStdout(), err)
	}()
	c.says(" F running\n")
	c.Stop(0)
	<-stopped
	if got := <-killed; got != `137 "before\n" <nil>` {
		t.Errorf("an exec that was killed with its container: %s", got)
	}
	if st := c.Ended(); st.GetExitCode() != 137 {
		t.Errorf("the container ended with %d", st.GetExitCode())
	}
	_, err := c.execSync(2, "true")
	wantCode(t, "exec in the ended container", err, codes.FailedPrecondition)
}

// s22LeftChild: neither one that keeps the pipe nor one that fills it makes the
// caller wait; they stay the container's and end with it.
func s22LeftChild(t *testing.T) {
	c := shared.pod(t).idle("c")
	before := pids(t, c)
	for script, output := range map[string]string{
		"setsid sleep 1001 & echo kept; exit 7":                           "kept\n",
		"(trap '' PIPE; while :; do echo y; done) & usleep 10000; exit 7": "y\n",
	} {
		began := time.Now()
		r, err := c.execSync(0, "sh", "-c", script)
		if err != nil || r.GetExitCode() != 7 || !strings.Contains(string(r.GetStdout()), output) {
			t.Errorf("%q: %d, %d bytes of output, %v", script, r.GetExitCode(), len(r.GetStdout()), err)
		}
		if took := time.Since(began); took > client.Bound(5*time.Second) {
			t.Errorf("%q took %v", script, took)
		}
	}
	all, cgroups := c.holdAll(t, len(before)+2), cgroupsOf(t, c.hostPID())
	c.Stop(0)
	gone(t, all, cgroups)
}

// s22Large: what is over the limit is dropped, not waited for, and the command
// never notices.
func s22Large(t *testing.T) {
	const size, limit = 64 << 20, 16 << 20
	c := shared.pod(t).idle("c", withProbe(t))
	r, err := c.execSync(0, "sh", "-c", fmt.Sprintf("%s lines %d && echo end >&2; exit 9", probePath, size))
	if err != nil {
		t.Fatal(err)
	}
	if r.GetExitCode() != 9 || string(r.GetStderr()) != "end\n" {
		t.Errorf("it ended with %d and says %q", r.GetExitCode(), r.GetStderr())
	}
	if got := len(r.GetStdout()); got > limit || got < limit-64<<10 {
		t.Errorf("%d bytes of output, want a little under %d", got, limit)
	}
	all := c.Sh(fmt.Sprintf("%s lines %d | head -c %d", probePath, size, 1<<20))
	if !bytes.HasPrefix(r.GetStdout(), []byte(all)) {
		t.Error("the output does not start with what was printed first")
	}
}

// s22Timeout: whatever the command started is killed, and nothing else.
func s22Timeout(t *testing.T) {
	const timeout = 4
	o := pidMode(runtimeapi.NamespaceMode_CONTAINER)
	c := shared.pod(t, namespaces(o)).idle("c", sameNamespaces(o))
	own := c.hostPID()
	answer := make(chan error, 1)
	began := time.Now()
	go func() {
		_, err := c.execSync(timeout, "sh", "-c", "trap '' TERM INT HUP; "+tree+"echo started > /proc/1/fd/1; exec sleep 1005")
		answer <- err
	}()
	c.says(" F started\n")
	all := slices.DeleteFunc(c.holdAll(t, treeSize+2), func(h held) bool { return h.pid == own })
	err := <-answer
	for _, h := range all {
		if !h.ended() {
			t.Errorf("after the answer process %d lives: %s", h.pid, h.command)
		}
	}
	wantCode(t, "an exec that timed out", err, codes.DeadlineExceeded)
	if took := time.Since(began); took < timeout*time.Second || took > timeout*time.Second+client.Bound(5*time.Second) {
		t.Errorf("it took %v", took)
	}
	if now := pids(t, c); !slices.Equal(now, []int{own}) {
		t.Errorf("the container's processes are %v, want %d", now, own)
	}
	for _, dir := range cgroupsOf(t, own) {
		if left, _ := filepath.Glob(filepath.Join(dir, "exec-*")); len(left) > 0 {
			t.Errorf("cgroups of sessions: %v", left)
		}
	}
	if got := c.Sh("echo alive"); got != "alive\n" {
		t.Error(got)
	}
}
