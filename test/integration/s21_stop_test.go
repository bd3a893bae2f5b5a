package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/registry"
)

// S21: how containers are stopped. That a signal is obeyed or its grace passes is
// in [TestStop], two stops at once are in [TestOverlappingStops].
func TestS21Stop(t *testing.T) {
	t.Run("signals", s21Signals)
	t.Run("shorter grace", s21ShorterGrace)
	for name, mode := range map[string]runtimeapi.NamespaceMode{
		"own": runtimeapi.NamespaceMode_CONTAINER, "pod": runtimeapi.NamespaceMode_POD, "host": runtimeapi.NamespaceMode_NODE,
	} {
		t.Run("all processes, PIDs of "+name, func(t *testing.T) { s21All(t, mode) })
	}
}

// s21Signals: the program's exit code is the kernel's number of the first signal
// that reached it.
func s21Signals(t *testing.T) {
	base, err := registry.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	p := shared.pod(t)
	for name, c := range map[string]struct {
		image string
		cri   runtimeapi.Signal
		want  int32
	}{
		"default":       {"", 0, 15},
		"image":         {"SIGQUIT", 0, 3},
		"image-rt":      {"RTMIN+3", 0, 37},
		"image-number":  {"12", 0, 12},
		"cri":           {"", runtimeapi.Signal_SIGNAL_SIGUSR1, 10},
		"cri-rtmin":     {"", runtimeapi.Signal_SIGNAL_SIGRTMIN, 128 + 34}, // Go leaves it to libc: the kernel ends the program
		"cri-rtmin+5":   {"", runtimeapi.Signal_SIGNAL_SIGRTMINPLUS5, 39},
		"cri-rtmax-2":   {"", runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS2, 62},
		"cri-rtmax":     {"", runtimeapi.Signal_SIGNAL_SIGRTMAX, 64},
		"cri-and-image": {"SIGQUIT", runtimeapi.Signal_SIGNAL_SIGHUP, 1},
	} {
		change := func(cc *runtimeapi.ContainerConfig) { cc.StopSignal = c.cri }
		ref := busybox
		if c.image != "" {
			ref = "docker.io/test/stop:" + name
			img, err := registry.Extend(base, func(conf *v1.Config) { conf.StopSignal = c.image })
			if err == nil {
				err = images.Push(ref, img)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer shared.removeImage(t, ref)
		}
		run := p.start(name, "", runs(t, "signal"), change, func(c *runtimeapi.ContainerConfig) { c.Image.Image = ref })
		run.says(" F ready\n")
		run.Stop(patience / 2)
		if got := run.Status().GetExitCode(); got != c.want {
			t.Errorf("%s: signal %d, want %d", name, got, c.want)
		}
		if _, err := shared.Runtime.RemoveContainer(within(t), &runtimeapi.RemoveContainerRequest{ContainerId: run.ID}); err != nil {
			t.Error(err) // the image can't go before it
		}
	}
}

// s21ShorterGrace: a later stop with a longer grace changes nothing, and does not
// signal again.
func s21ShorterGrace(t *testing.T) {
	c := shared.pod(t).start("c", "trap 'echo term' TERM; echo ready; while :; do sleep 0.05; done")
	c.says(" F ready\n")
	pid, ok := hold(t, c.mainPID(t))
	began := time.Now()
	first := make(chan struct{})
	go func() {
		defer close(first)
		c.Stop(2 * time.Second)
	}()
	c.says(" F term\n")
	c.Stop(15 * time.Second)
	<-first
	if took := time.Since(began); took < 2*time.Second || took > 10*time.Second {
		t.Errorf("both stops took %v", took)
	}
	if !ok || !pid.ended() {
		t.Error("its process lives")
	}
	if got := output(readLog(t, c.LogFile()), "stdout"); got != "ready\nterm\n" {
		t.Errorf("it heard %q", got)
	}
}

// held are processes that are known by more than their numbers.
type held struct {
	pid, fd int
	command string
}

// hold takes hold of a process until the test ends; false when it has ended.
func hold(t *testing.T, pid int) (held, bool) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return held{}, false
	}
	t.Cleanup(func() { unix.Close(fd) })
	command, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return held{pid, fd, strings.ReplaceAll(string(command), "\x00", " ")}, err == nil
}

// ended tells whether the process has ended, as a fact of this moment.
func (h held) ended() bool {
	fds := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// mainPID is the container's own process, also where orphans are its siblings.
func (c *ctr) mainPID(t *testing.T) int {
	t.Helper()
	text, _, _ := strings.Cut(factOf(c.p.s.explain(t, c.ID), "process", "pid"), ",")
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// tree is a shell script that starts what a stop could miss: a session of its
// own, an orphan, one that ignores SIGTERM, one that is stopped.
const tree = "setsid sleep 1001 & (sleep 1002 &) ; (trap '' TERM; exec sleep 1003) & sleep 1004 & kill -STOP $!; "

const treeSize = 4

// holdAll takes hold of the container's processes once there are as many.
func (c *ctr) holdAll(t *testing.T, count int) []held {
	t.Helper()
	var all []held
	eventually(t, "the container has its processes", func() bool { return len(pids(t, c)) >= count })
	for _, pid := range pids(t, c) {
		if h, ok := hold(t, pid); ok { // else it was the sleep of a loop
			all = append(all, h)
		}
	}
	return all
}

// cgroupsOf are the directories of a process's cgroups.
func cgroupsOf(t *testing.T, pid int) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(procFile(t, pid, "cgroup")) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, dir := range []string{f[1], strings.TrimPrefix(f[1], "name="), "unified"} {
			at := filepath.Join("/sys/fs/cgroup", dir, f[2])
			if _, err := os.Stat(filepath.Join(at, "cgroup.procs")); err == nil && f[2] != "/" {
				out = append(out, at)
				break
			}
		}
	}
	return out
}

// gone checks that processes have ended and that no other took their place.
func gone(t *testing.T, all []held, cgroups []string) {
	t.Helper()
	for _, h := range all {
		if !h.ended() {
			t.Errorf("process %d lives: %s", h.pid, h.command)
		}
	}
	for _, dir := range cgroups {
		if left, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil && len(left) > 0 {
			t.Errorf("in %s are %q", dir, left)
		}
	}
}

// s21All: whatever the first process does, with it go all of its cgroup, also
// where the kernel does not end them with their PID 1.
func s21All(t *testing.T, mode runtimeapi.NamespaceMode) {
	o := pidMode(mode)
	p := shared.pod(t, namespaces(o))
	for name, c := range map[string]struct {
		script string
		grace  time.Duration
		code   int32
	}{
		"obeys":   {"trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done", patience / 2, 3},
		"ignores": {"trap '' TERM; echo ready; while :; do sleep 0.05; done", time.Second, 137},
		"ends":    {"trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done", 0, 5},
	} {
		run := p.start(name, tree+c.script, sameNamespaces(o))
		run.says(" F ready\n")
		run.Sh("sleep 1005 >/dev/null 2>&1 &") // left by an exec
		all, cgroups := run.holdAll(t, treeSize+2), cgroupsOf(t, run.mainPID(t))
		if len(cgroups) == 0 {
			t.Error("no cgroup of the container was found")
		}
		if c.grace == 0 {
			if err := unix.Kill(run.mainPID(t), unix.SIGUSR1); err != nil {
				t.Fatal(err)
			}
		} else {
			run.Stop(c.grace)
		}
		if st := run.Ended(); st.GetExitCode() != c.code {
			t.Errorf("%s: it ended with %d, want %d", name, st.GetExitCode(), c.code)
		}
		gone(t, all, cgroups)
	}
}
