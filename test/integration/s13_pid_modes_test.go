package integration

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// S13: what /proc shows with each mode of the PID namespace. That containers
// see each other's PID 1 as they should is in [TestPidNamespaces]; here is which
// processes there are, by the host's /proc, who reaps, and who ends with whom.
func TestS13PIDModes(t *testing.T) {
	t.Run("host", s13Host)
	t.Run("pod", s13Pod)
	t.Run("container", s13Container)
	t.Run("target", s13Target)
}

func pidMode(m runtimeapi.NamespaceMode) *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{Pid: m}
}

// seen are the PIDs that a container's /proc shows.
func seen(t *testing.T, c *ctr) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for dir := range strings.FieldsSeq(c.Sh("cd /proc && ls -d [0-9]*")) {
		out[dir] = true
	}
	return out
}

// first is the process on the host that is PID 1 of a PID namespace.
func first(t *testing.T, namespace string) int {
	t.Helper()
	for host, inside := range processes(t, namespace) {
		if inside == 1 {
			return host
		}
	}
	t.Fatalf("%s has no PID 1", namespace)
	return 0
}

func s13Host(t *testing.T) {
	o := pidMode(runtimeapi.NamespaceMode_NODE)
	c := shared.pod(t, namespaces(o)).idle("c", sameNamespaces(o))
	pid := c.hostPID()
	if got := strings.Fields(statusField(t, pid, "NSpid")); len(got) != len(strings.Fields(statusField(t, os.Getpid(), "NSpid"))) {
		t.Errorf("its PIDs by namespace are %v", got)
	}
	there := seen(t, c)
	for what, pid := range map[string]int{"the test": os.Getpid(), "the daemon": shared.PID(), "itself": pid} {
		if !there[strconv.Itoa(pid)] {
			t.Errorf("its /proc does not show %s", what)
		}
	}
	if got := factOf(shared.explain(t, c.ID), "namespaces", "pid"); !strings.HasPrefix(got, "the host's, ") {
		t.Errorf("explain says %q", got)
	}
}

// s13Pod: pause is PID 1 of the namespace and reaps what others leave.
func s13Pod(t *testing.T) {
	p := shared.pod(t)
	a, b := p.idle("a"), p.idle("b")
	namespace := namespaceOf(t, a.hostPID(), "pid")
	pause := first(t, namespace)
	if parent := statusField(t, pause, "PPid"); parent != strconv.Itoa(shared.shim(t)) {
		t.Errorf("the parent of PID 1 is %s, the shim is %d", parent, shared.shim(t))
	}
	if want := slices.Sorted(maps.Keys(processes(t, namespace))); !slices.Equal(want, sorted(pause, a.hostPID(), b.hostPID())) {
		t.Errorf("in the namespace are %v, not pause %d and the containers %d, %d", want, pause, a.hostPID(), b.hostPID())
	}
	there := seen(t, b)
	for who, pid := range map[string]int{"pause": pause, "the other container": a.hostPID()} {
		if inside := strconv.Itoa(processes(t, namespace)[pid]); !there[inside] {
			t.Errorf("/proc does not show %s, PID %s", who, inside)
		}
	}
	// 100 orphans that live until a fifo is written to, and 20 that end at once.
	c := p.start("orphans", "mkfifo /end; exec 3<>/end; for i in $(seq 100); do (sh -c 'read x <&3' &); done; echo left; sleep 1000")
	c.says(" F left\n")
	count := func() int {
		return len(strings.Fields(procFile(t, pause, filepath.Join("task", strconv.Itoa(pause), "children"))))
	}
	eventually(t, "pause has 100 orphans", func() bool { return count() == 100 })
	c.Sh("for i in $(seq 20); do (true &); done; seq 100 > /end")
	eventually(t, "pause has reaped all", func() bool { return count() == 0 })
	for pid, inside := range processes(t, namespace) {
		if strings.HasPrefix(statusField(t, pid, "State"), "Z") {
			t.Errorf("process %d, inside %d, is a zombie", pid, inside)
		}
	}
	if got := factOf(shared.explain(t, a.ID), "namespaces", "pid"); !strings.HasPrefix(got, "the pod's, ") {
		t.Errorf("explain says %q", got)
	}
}

func sorted(pids ...int) []int { return slices.Sorted(slices.Values(pids)) }

// s13Container: its first process is PID 1, and nothing else is there.
func s13Container(t *testing.T) {
	o := pidMode(runtimeapi.NamespaceMode_CONTAINER)
	p := shared.pod(t, namespaces(o))
	a := p.idle("a", sameNamespaces(o))
	p.idle("b", sameNamespaces(o))
	namespace := namespaceOf(t, a.hostPID(), "pid")
	if got := processes(t, namespace); !maps.Equal(got, map[int]int{a.hostPID(): 1}) {
		t.Errorf("in the namespace are %v, want %d alone, as PID 1", got, a.hostPID())
	}
	if got := factOf(shared.explain(t, a.ID), "namespaces", "pid"); !strings.HasPrefix(got, "its own, ") {
		t.Errorf("explain says %q", got)
	}
}

// s13Target: the guest is in the target's namespace, and the kernel ends it with
// the target's PID 1, which the runtime must tell as an end like any other.
func s13Target(t *testing.T) {
	o := pidMode(runtimeapi.NamespaceMode_CONTAINER)
	p := shared.pod(t, namespaces(o))
	target := p.idle("target", sameNamespaces(o))
	guest := p.idle("guest", sameNamespaces(&runtimeapi.NamespaceOption{
		Pid: runtimeapi.NamespaceMode_TARGET, TargetId: target.ID,
	}))
	namespace := namespaceOf(t, target.hostPID(), "pid")
	got := processes(t, namespace)
	if got[target.hostPID()] != 1 || got[guest.hostPID()] < 2 || len(got) != 2 {
		t.Errorf("in the target's namespace are %v, want %d as PID 1 and the guest %d", got, target.hostPID(), guest.hostPID())
	}
	if namespaceOf(t, guest.hostPID(), "mnt") == namespaceOf(t, target.hostPID(), "mnt") {
		t.Error("the guest has the target's mounts, too")
	}
	if got := factOf(shared.explain(t, guest.ID), "namespaces", "pid"); !strings.HasPrefix(got, "that of container target, ") {
		t.Errorf("explain says %q", got)
	}
	target.Stop(0)
	if st := guest.Ended(); st.GetExitCode() != 137 {
		t.Errorf("with its target the guest ended with %d", st.GetExitCode())
	}
	_, err := p.create(client.Shell("late", "true", sameNamespaces(&runtimeapi.NamespaceOption{
		Pid: runtimeapi.NamespaceMode_TARGET, TargetId: target.ID,
	})))
	wantCode(t, "a target that has ended", err, codes.FailedPrecondition)
}
