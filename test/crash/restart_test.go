package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// TestRestartWithTwentyPods: nobody in twenty pods notices that the daemon is
// killed, and the next one answers at once.
func TestRestartWithTwentyPods(t *testing.T) {
	const pods, restarts = 20, 5
	soon := bound(time.Second) // to the first answer
	d := start(t, node.Options{})
	d.pull(busybox)
	var all []*ctr
	for i := range pods {
		all = append(all, d.counts(fmt.Sprint("pod-", i)))
	}
	before := d.answers()
	var took []time.Duration
	for range restarts {
		d.kill()
		took = append(took, d.firstAnswer(pods))
		for _, c := range all {
			c.stillRuns()
		}
		if after := d.answers(); !slices.Equal(before, after) {
			t.Errorf("pods and containers are\n%s\nwere\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
	}
	var execs sync.WaitGroup
	for i, c := range all {
		execs.Go(func() {
			r, err := d.Runtime.ExecSync(within(t), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"echo", fmt.Sprint(i)}})
			if err != nil || string(r.GetStdout()) != fmt.Sprintln(i) {
				t.Errorf("exec in pod %d: %q, %v", i, r.GetStdout(), err)
			}
		})
	}
	execs.Wait()
	for _, c := range all {
		n := c.lines()
		eventually(t, "the counter goes on", func() bool { return c.lines() > n })
	}
	slices.Sort(took)
	median := took[len(took)/2]
	t.Logf("from exec of berthd to the first answer of ListContainers with %d pods: median %v of %v", pods, median, took)
	if median > soon {
		t.Errorf("it takes %v to the first answer, want less than %v", median, soon)
	}
}

// firstAnswer starts the daemon and tells how long it takes until ListContainers
// is answered, with as many containers as there are.
func (d *daemon) firstAnswer(containers int) time.Duration {
	d.t.Helper()
	ready := make(chan error, 1)
	began := time.Now() // the keeper executes berthd a little later
	go func() { ready <- d.Restart(context.Background()) }()
	if err := d.listening(); err != nil {
		d.t.Fatal(err)
	}
	d.redial()
	r, err := d.Runtime.ListContainers(within(d.t), &runtimeapi.ListContainersRequest{})
	took := time.Since(began)
	if err != nil || len(r.GetContainers()) != containers {
		d.t.Errorf("the first answer tells of %d containers: %v", len(r.GetContainers()), err)
	}
	if err := <-ready; err != nil {
		d.t.Fatal(err)
	}
	return took
}

// answers is what the lists tell, in order, a line each.
func (d *daemon) answers() (out []string) {
	d.t.Helper()
	pods, err := d.Runtime.ListPodSandbox(within(d.t), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, p := range pods.GetItems() {
		out = append(out, p.String())
	}
	containers, err := d.Runtime.ListContainers(within(d.t), &runtimeapi.ListContainersRequest{})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, c := range containers.GetContainers() {
		out = append(out, c.String())
	}
	return out
}

// TestEndsWhileTheDaemonIsDown: codes and times of what ended meanwhile are exact,
// and the last words are in the log.
func TestEndsWhileTheDaemonIsDown(t *testing.T) {
	d := start(t, node.Options{})
	d.watch()
	p := d.pod("ends")
	gate := t.TempDir()
	cases := map[string]struct {
		script string
		end    func(pid int) // nil: by the FIFO of its name
		code   int32
		reason string
	}{
		"zero":   {"read _ </gate/zero; echo last words", nil, 0, "Completed"},
		"code":   {"read _ </gate/code; echo last words; exit 37", nil, 37, "Error"},
		"killed": {"echo last words; exec sleep 1000", func(pid int) { _ = unix.Kill(pid, unix.SIGKILL) }, 137, "Error"},
		"signal": {"trap 'echo last words; exit 9' TERM; while :; do usleep 1000; done", func(pid int) { _ = unix.Kill(pid, unix.SIGTERM) }, 9, "Error"},
	}
	containers := map[string]*ctr{}
	for name, c := range cases {
		if err := unix.Mkfifo(filepath.Join(gate, name), 0o600); err != nil {
			t.Fatal(err)
		}
		conf := client.Shell(name, "echo ready; "+c.script)
		conf.Mounts = []*runtimeapi.Mount{{HostPath: gate, ContainerPath: "/gate"}}
		ct := p.create(conf)
		ct.start()
		_, ct.pid = ct.details()
		containers[name] = ct
		eventually(t, "the container is ready", func() bool { return strings.Contains(p.log(name), "ready") })
	}
	d.kill()
	from := time.Now()
	for name, c := range cases {
		pidfd := openPID(t, containers[name].pid)
		if c.end != nil {
			c.end(containers[name].pid)
		} else if err := os.WriteFile(filepath.Join(gate, name), []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
		pidfd.await()
	}
	until := time.Now()
	d.restart()
	for name, c := range cases {
		st := containers[name].Ended()
		if st.GetExitCode() != c.code || st.GetReason() != c.reason {
			t.Errorf("%s: code %d, reason %s; want %d, %s", name, st.GetExitCode(), st.GetReason(), c.code, c.reason)
		}
		// The shim reads the clock once the kernel told it of the end.
		if at := time.Unix(0, st.GetFinishedAt()); at.Before(from) || at.After(until.Add(100*time.Millisecond)) {
			t.Errorf("%s: finished at %v, not between %v and %v", name, at, from, until)
		}
		if log := p.log(name); !strings.HasSuffix(log, " stdout F last words\n") {
			t.Errorf("%s: the log is %q", name, log)
		}
		again := containers[name].Status()
		d.crash()
		if diff := containers[name].Status(); diff.String() != again.String() {
			t.Errorf("%s: another restart changed the status from\n%v to\n%v", name, again, diff)
		}
	}
	p.Remove()
	d.unnoticed()
}

func (p *pod) log(name string) string {
	data, _ := os.ReadFile(filepath.Join(p.Config.GetLogDirectory(), name+".log"))
	return string(data)
}

// process is held so that its end can be awaited.
type process struct {
	t  *testing.T
	fd int
}

func openPID(t *testing.T, pid int) process {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return process{t, fd}
}

func (p process) await() {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for p.lives(time.Until(deadline)) {
		if time.Now().After(deadline) {
			p.t.Fatal("the process does not end")
		}
	}
}

// lives tells whether the process runs, after waiting for its end for so long.
func (p process) lives(within time.Duration) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(within/time.Millisecond))
	return n != 1 // also when interrupted
}

// TestExecEndsWithTheDaemon: nobody would read its output or learn its code.
func TestExecEndsWithTheDaemon(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	before := d.facts()
	pids := func() int {
		all, err := d.PIDs(d.witness.ID)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, pid := range all {
			if cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(cmdline), "sleep\x001234") {
				n++
			}
		}
		return n
	}
	answered := make(chan error, 1)
	go func() {
		_, err := d.Runtime.ExecSync(within(t), &runtimeapi.ExecSyncRequest{
			ContainerId: d.witness.ID, Cmd: []string{"sh", "-c", "setsid sleep 1234 & sleep 1234"},
		})
		answered <- err
	}()
	eventually(t, "the session runs", func() bool { return pids() == 2 })
	d.kill()
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("exec: %v", err)
	}
	eventually(t, "the session's processes are gone", func() bool { return pids() == 0 })
	d.restart()
	d.settled("after an exec that was cut short", before)
	d.unnoticed()
}

// TestLogIsRotatedAcrossARestart: the kubelet renames the log while the daemon is
// down, and tells it when it is back. No line is lost or twice.
func TestLogIsRotatedAcrossARestart(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	c := d.counts("rotated")
	log := filepath.Join(c.p.Config.GetLogDirectory(), "counter.log")
	eventually(t, "there are lines", func() bool { return c.lines() > 3 })
	d.kill()
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	d.restart()
	if _, err := d.Runtime.ReopenContainerLog(within(t), &runtimeapi.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new log has lines", func() bool { return len(strings.Split(c.p.log("counter"), "\n")) > 3 })
	old, err := os.ReadFile(log + ".1")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(old) + c.p.log("counter")) {
		if !strings.HasSuffix(line, fmt.Sprintf(" stdout F %d\n", n)) {
			t.Fatalf("line %d is %q", n, line)
		}
		n++
	}
	c.p.Remove()
	d.unnoticed()
}
