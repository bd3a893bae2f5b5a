package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

// orphans leaves a hundred ended processes to PID 1.
const orphans = `i=0; while [ $i -lt 100 ]; do (sleep 0 &); i=$((i+1)); done`

// ownPIDs gives a container a PID namespace; in a shared one pause reaps.
func ownPIDs(c *runtimeapi.ContainerConfig) {
	c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
	}
}

// TestS14Init is a first process that never reaps, with the pod's annotation and
// without: with it an init is PID 1, reaps, hands signals on and ends with the
// command's code.
func TestS14Init(t *testing.T) {
	for _, with := range []bool{false, true} {
		t.Run(fmt.Sprintf("annotation %t", with), func(t *testing.T) {
			p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) {
				c.Annotations = map[string]string{"berth/init": strconv.FormatBool(with)}
			})
			reaps(t, p, with)
			handsOn(t, p)
		})
	}
	t.Run("refused", func(t *testing.T) {
		cfg := shared.podConfig(t)
		cfg.Annotations = map[string]string{"berth/init": "yes"}
		_, err := shared.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: cfg})
		if err == nil || !strings.Contains(err.Error(), "berth/init") {
			t.Errorf("an annotation of another value: %v", err)
		}
	})
}

// reaps runs a first process that never waits.
func reaps(t *testing.T, p *pod, with bool) {
	t.Helper()
	c := p.start("idle", "exec sleep 1000", ownPIDs)
	pid := firstProcess(t, c)
	c.Sh(orphans)
	want := 100
	if with {
		want = 0
	}
	// Nothing tells of a process that becomes a zombie.
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		dead, alive := children(t, pid)
		if dead == want && alive <= 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("below PID 1 are %d zombies, want %d, and %d living", dead, want, alive)
		}
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		t.Fatal(err)
	}
	if isInit := strings.TrimSpace(string(comm)) == ".berth-init"; isInit != with {
		t.Errorf("PID 1 is %q", comm)
	}
	why := shared.berth(t, "explain", c.ID)
	if told := strings.Contains(why, "zombies"); told == with {
		t.Errorf("explain says %q", why)
	}
	c.Stop(0)
}

// children counts those of a process that have ended and those that live.
func children(t *testing.T, pid int) (dead, alive int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	for child := range strings.FieldsSeq(string(text)) {
		stat, err := os.ReadFile("/proc/" + child + "/stat")
		switch {
		case err != nil: // reaped meanwhile
		case strings.Contains(string(stat), ") Z "):
			dead++
		default:
			alive++
		}
	}
	return dead, alive
}

// handsOn: the application's own code comes out, also of a handled signal.
func handsOn(t *testing.T, p *pod) {
	t.Helper()
	plain := p.start("code", "exit 42", ownPIDs)
	if st := plain.Ended(); st.GetExitCode() != 42 {
		t.Errorf("exit code %d, want 42", st.GetExitCode())
	}
	c := p.start("term", "trap 'exit 33' TERM; touch /ready; while :; do sleep 1000 & wait; done", ownPIDs)
	awaitFile(t, c, "/ready")
	c.Stop(10 * time.Second)
	if st := c.Ended(); st.GetExitCode() != 33 {
		t.Errorf("exit code %d after SIGTERM, want the handler's 33", st.GetExitCode())
	}
}

// TestS14InitOOM: a command that is killed for memory below init is told as such.
func TestS14InitOOM(t *testing.T) {
	p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Annotations = map[string]string{"berth/init": "true"} })
	c := p.start("eater", "exec tail /dev/zero", ownPIDs, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20}
	})
	if st := c.Ended(); st.GetExitCode() != 137 || st.GetReason() != "OOMKilled" {
		t.Errorf("exit code %d, reason %s", st.GetExitCode(), st.GetReason())
	}
	// The killed one was below init, which ended by itself.
	var fact shimapi.Record
	if err := atomicfile.Read(filepath.Join(shared.Root, "pods", c.p.ID, "containers", c.ID, "status.json"), &fact); err != nil || fact.Signal != 0 {
		t.Errorf("the first process ended by signal %d, %v: it is not init", fact.Signal, err)
	}
}

// firstProcess is the container's PID on the host, as the verbose status has it.
func firstProcess(t *testing.T, c *ctr) int {
	t.Helper()
	pids, err := shared.PIDs(c.ID)
	if err != nil || len(pids) == 0 {
		t.Fatalf("processes of %s: %v, %v", c.ID, pids, err)
	}
	return pids[0]
}

// awaitFile waits until a file is in the root of the container's writable layer.
func awaitFile(t *testing.T, c *ctr, name string) {
	t.Helper()
	dir := filepath.Join(shared.Root, "pods", c.p.ID, "containers", c.ID, "upper")
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		t.Fatal(err)
	}
	late := time.After(patience)
	for {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return
		}
		select {
		case <-w.Events:
		case err := <-w.Errors:
			t.Fatal(err)
		case <-late:
			t.Fatalf("no %s in %s", name, c.ID)
		}
	}
}
