package integration

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

func (c *ctr) execSync(timeout int64, cmd ...string) (*runtimeapi.ExecSyncResponse, error) {
	return c.p.s.Runtime.ExecSync(within(c.p.T), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: cmd, Timeout: timeout})
}

func TestExecSync(t *testing.T) {
	c := shared.pod(t).start("c", "sleep 1000")
	r, err := c.execSync(5, "sh", "-c", "echo out; echo err >&2; exit 42")
	if err != nil {
		t.Fatal(err)
	}
	if string(r.GetStdout()) != "out\n" || string(r.GetStderr()) != "err\n" || r.GetExitCode() != 42 {
		t.Errorf("%q %q %d", r.GetStdout(), r.GetStderr(), r.GetExitCode())
	}
	if r, err := c.execSync(5, "sh", "-c", "kill -KILL $$"); err != nil || r.GetExitCode() != 137 {
		t.Errorf("killed: %v %v", r, err)
	}
	if _, err := c.execSync(5, "nosuchprogram"); err == nil || !strings.Contains(err.Error(), "nosuchprogram") {
		t.Errorf("a program that is not there: %v", err)
	}
	const size = 3 << 20
	r, err = c.execSync(10, "sh", "-c", "head -c 3145728 /dev/zero")
	if err != nil || len(r.GetStdout()) != size {
		t.Errorf("%d bytes, want %d: %v", len(r.GetStdout()), size, err)
	}
}

// On timeout the command and all it started are killed, the container not.
func TestExecTimeoutKillsTheTree(t *testing.T) {
	c := shared.pod(t).start("c", "sleep 1000")
	before := pids(t, c)
	began := time.Now()
	_, err := c.execSync(1, "sh", "-c", "sleep 2001 & (sleep 2002 & sleep 2003) & trap '' TERM; sleep 2004")
	wantCode(t, "an exec that timed out", err, codes.DeadlineExceeded)
	if took := time.Since(began); took > client.Bound(4*time.Second) {
		t.Errorf("it took %v", took)
	}
	if after := pids(t, c); len(after) != len(before) {
		t.Errorf("processes before %v, after %v", before, after)
	}
	if got := c.Sh("echo alive"); got != "alive\n" {
		t.Error(got)
	}
}

func pids(t *testing.T, c *ctr) []int {
	t.Helper()
	out, err := c.p.s.PIDs(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A child that keeps the output open must not keep the caller.
func TestExecWithALeftChildReturns(t *testing.T) {
	c := shared.pod(t).start("c", "sleep 1000")
	began := time.Now()
	r, err := c.execSync(15, "sh", "-c", "sleep 300 & echo started")
	if err != nil || string(r.GetStdout()) != "started\n" {
		t.Errorf("%v %v", r, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestExecNeedsARunningContainer(t *testing.T) {
	p := shared.pod(t)
	c := p.start("c", "exit 0")
	c.Ended()
	_, err := c.execSync(5, "true")
	wantCode(t, "exec in an ended container", err, codes.FailedPrecondition)
	id, err := p.create(client.Shell("created", "sleep 1"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.ctr(id).execSync(5, "true")
	wantCode(t, "exec in a container that was not started", err, codes.FailedPrecondition)
}

// Many at once: each gets its own output.
func TestExecSideBySide(t *testing.T) {
	c := shared.pod(t).start("c", "sleep 1000")
	errs := make(chan string, 16)
	for i := range cap(errs) {
		go func() {
			want := strings.Repeat(string(rune('a'+i)), 1000)
			r, err := c.execSync(10, "echo", want)
			if err != nil || string(r.GetStdout()) != want+"\n" {
				errs <- "wrong output or " + want[:1]
				return
			}
			errs <- ""
		}()
	}
	for range cap(errs) {
		if e := <-errs; e != "" {
			t.Error(e)
		}
	}
}
