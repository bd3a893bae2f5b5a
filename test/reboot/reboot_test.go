package reboot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/procfs"
	"berth/test/client"
	"berth/test/registry"
)

// stateEnv names the file that the tests before the restart leave for those after it.
const stateEnv = "BERTH_TEST_REBOOT"

const (
	endpoint  = "unix:///run/berth/berth.sock"
	namespace = "reboot"
	// logDir is on a file system that outlives the restart.
	logDir = "/var/log/berth-reboot"
	// tooLong is how long the machine may take to go down: systemd's own patience with a unit
	// is 90 s, and a container that ignores its signal has a grace of 30 s.
	tooLong = 60 * time.Second
)

// before is what was so before the restart.
type before struct {
	BootID  string
	At      time.Time
	Counts  one // it ends by its signal with code 7
	Ignores one // it ignores its signal
	Ended   one // it had ended with code 3
	Stopped one // its pod was stopped
}

// one is a pod with a container.
type one struct {
	Pod, Container, Log string
	Lines               int   // of its log
	Finished            int64 // when it ended
}

// scripts of the containers, by their names.
var scripts = map[string]string{
	"counts":  "trap 'echo bye; exit 7' TERM; " + client.Counter,
	"ignores": "trap '' TERM; while :; do sleep 1; done",
	"ended":   "echo 0; exit 3",
	"stopped": "exec sleep 1000",
}

func stateFile(t *testing.T) string {
	file := os.Getenv(stateEnv)
	if file == "" {
		t.Skip("the machine is restarted in between: it runs in the guest (make test-vm SUITES=reboot)")
	}
	return file
}

func connect(t *testing.T) client.Kit {
	t.Helper()
	cri, err := client.Dial(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cri.Close() })
	return client.Kit{Client: cri, T: t, LogDir: logDir, Namespace: namespace}
}

// host is a pod on the host's network: the machine has no plugins.
func host(c *runtimeapi.PodSandboxConfig) *runtimeapi.PodSandboxConfig {
	c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
	}
	return c
}

func start(k client.Kit, name string) (one, *client.Container) {
	k.T.Helper()
	p := k.Run(host(k.PodConfig(name)))
	c := p.Start(client.Shell(name, scripts[name]))
	return one{Pod: p.ID, Container: c.ID, Log: c.LogFile()}, c
}

// TestGuestBeforeTheRestart makes the pods.
func TestGuestBeforeTheRestart(t *testing.T) {
	file := stateFile(t)
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		t.Fatal(err)
	}
	reg, err := registry.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	image, err := registry.Busybox()
	if err == nil {
		err = reg.Push(client.Busybox, image)
	}
	if err == nil {
		err = reg.WriteHosts("/etc/berth/certs.d", registry.Upstreams...)
	}
	if err != nil {
		t.Fatal(err)
	}
	k := connect(t)
	var b before
	var counts, ended, stopped *client.Container
	b.Counts, counts = start(k, "counts")
	b.Ignores, _ = start(k, "ignores")
	b.Ended, ended = start(k, "ended")
	b.Stopped, stopped = start(k, "stopped")
	stopped.Pod.Stop()
	for st, o := range map[*client.Container]*one{ended: &b.Ended, stopped: &b.Stopped} {
		o.Finished = st.Ended().GetFinishedAt()
	}
	client.Eventually(t, "the container counts", func() bool { return lines(t, counts.LogFile()) > 10 })
	b.Counts.Lines = lines(t, counts.LogFile())
	if b.BootID, err = procfs.BootID(); err != nil {
		t.Fatal(err)
	}
	b.At = time.Now()
	data, err := json.Marshal(b)
	if err == nil {
		err = os.WriteFile(file, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func lines(t *testing.T, log string) int {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte("\n"))
}

// TestGuestAfterTheRestart looks at what became of them.
func TestGuestAfterTheRestart(t *testing.T) {
	data, err := os.ReadFile(stateFile(t))
	var b before
	if err == nil {
		err = json.Unmarshal(data, &b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if now, err := procfs.BootID(); err != nil || now == b.BootID {
		t.Fatalf("the boot is %s as before, %v: the machine was not restarted", now, err)
	}
	down := bootTime(t).Sub(b.At)
	t.Logf("the machine was down %v after it was told to restart", down)
	if down > client.Bound(tooLong) {
		t.Errorf("it took %v, want %v at most: something of berth kept it up", down, client.Bound(tooLong))
	}
	k := connect(t)
	for name, want := range map[string]struct {
		one
		code   int32
		reason string
	}{
		"counts":  {b.Counts, 7, "Error"},
		"ignores": {b.Ignores, 137, "Error"},
		"ended":   {b.Ended, 3, "Error"},
		"stopped": {b.Stopped, 137, "Error"}, // a pod's stop kills
	} {
		st, err := k.ContainerStatus(client.Within(t), want.Container)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != want.code || st.GetReason() != want.reason {
			t.Errorf("%s is %v with code %d, %s, %q; want %d, %s", name, st.GetState(), st.GetExitCode(), st.GetReason(), st.GetMessage(), want.code, want.reason)
		}
		if want.Finished != 0 && st.GetFinishedAt() != want.Finished {
			t.Errorf("%s ended at %d, before the restart at %d", name, st.GetFinishedAt(), want.Finished)
		}
		pod, err := k.PodStatus(client.Within(t), want.Pod)
		if err != nil || pod.GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("the pod of %s is %v, %v; want not ready", name, pod.GetState(), err)
		}
	}
	if err := counted(b.Counts); err != nil {
		t.Errorf("the log of what counted: %v", err)
	}
	again(t, k)
}

// again removes all pods, finds nothing left of them, and runs another.
func again(t *testing.T, k client.Kit) {
	t.Helper()
	pods, err := k.Pods(client.Within(t), nil)
	if err != nil || len(pods) != 4 {
		t.Errorf("%d pods are listed, %v; want four", len(pods), err)
	}
	for _, p := range pods {
		if err := errors.Join(k.StopPod(client.Within(t), p.GetId()), k.RemovePod(client.Within(t), p.GetId())); err != nil {
			t.Errorf("removal of %s: %v", p.GetMetadata().GetName(), err)
		}
	}
	p := k.Run(host(k.PodConfig("new")))
	if got := p.Start(client.Shell("new", "sleep 1000")).Sh("echo new"); got != "new\n" {
		t.Errorf("a new container says %q", got)
	}
	p.Remove()
	out, err := exec.CommandContext(client.Within(t), "berth", "check", "--leaks").CombinedOutput()
	if err != nil {
		t.Errorf("berth check --leaks: %v\n%s", err, out)
	}
}

// bootTime is when the kernel began, by its own count (proc_stat(5)).
func bootTime(t *testing.T) time.Time {
	t.Helper()
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "\nbtime ")
	seconds, err := strconv.ParseInt(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(seconds, 0)
}

// counted checks that the lines of a log are 0, 1, 2, … and then the words of the signal's trap.
func counted(o one) error {
	data, err := os.ReadFile(o.Log)
	if err != nil {
		return err
	}
	next := 0
	for line := range strings.Lines(string(data)) {
		_, said, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " stdout F ")
		switch {
		case ok && said == strconv.Itoa(next) && strings.HasSuffix(line, "\n"):
			next++
		case ok && said == "bye" && strings.HasSuffix(string(data), line):
			if next < o.Lines {
				return fmt.Errorf("it has %d lines, before the restart %d", next, o.Lines)
			}
			return nil
		default:
			return fmt.Errorf("line %q comes after %d", line, next-1)
		}
	}
	return fmt.Errorf("the last words are missing after %d lines", next)
}
