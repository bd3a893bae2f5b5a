package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// networked is a pod with namespaces of its own.
func networked(name string) *runtimeapi.PodSandboxConfig {
	cfg := podConfig(name)
	cfg.Hostname = "host-" + name
	cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	return cfg
}

func (n *fakeNode) networked(name string) string {
	n.t.Helper()
	id, err := n.m.RunPod(n.t.Context(), networked(name), "")
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

func TestAPodWithANetworkOfItsOwn(t *testing.T) {
	n := newFakeNode(t)
	pod := n.networked("a")
	st := n.podStatus(pod)
	if !slices.Equal(st.IPs, []string{"10.1.0.2", "fd00::2"}) || st.NetNS != filepath.Join(n.state, "pods", pod, "net") {
		t.Errorf("status %+v", st)
	}
	r := n.shim.runs[0]
	if !r.NewNet || !r.NewUTS || !r.NewIPC || r.NewPID || r.Hostname != "host-a" || r.NetNSPath != st.NetNS {
		t.Errorf("the shim was asked for %+v", r)
	}
	if r.Sysctls["net.ipv4.ip_unprivileged_port_start"] != "0" {
		t.Errorf("sysctls %v", r.Sysctls)
	}
	shm := filepath.Join(n.state, "pods", pod, "shm")
	if got := n.mounts.mounted[shm]; got != "mode=1777,size=67108864" {
		t.Errorf("shared memory is mounted with %q", got)
	}
	for name, want := range map[string]string{"hostname": "host-a\n", "hosts": "localhost", "resolv.conf": ""} {
		b, err := os.ReadFile(filepath.Join(n.podDirOf(pod), name))
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
	}
	n.restart()
	if again := n.podStatus(pod); !slices.Equal(again.IPs, st.IPs) || again.NetNS != st.NetNS {
		t.Errorf("after a restart: %+v", again)
	}
	if err := n.m.StopPod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if st := n.podStatus(pod); len(st.IPs) > 0 {
		t.Errorf("a stopped pod has addresses %v, which may be another pod's", st.IPs)
	}
	if len(n.network.attached)+len(n.mounts.mounted) > 0 {
		t.Errorf("attached %v, mounted %v", n.network.attached, n.mounts.mounted)
	}
	if err := n.m.RemovePod(t.Context(), pod); err != nil {
		t.Error(err)
	}
}

func TestAPodInAUserNamespaceOwnsItsFiles(t *testing.T) {
	cfg := networked("a")
	ids := []*runtimeapi.IDMapping{{HostId: 1000, Length: 10}}
	cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: nsPod, Uids: ids, Gids: ids}
	rec := podRecord{Pod: record.Pod{ID: strings.Repeat("a", 64)}, config: cfg}
	rec.derive(layout{})
	host := testHost()
	host.UserNS, host.IDMap = true, true
	plan, err := planPod(&rec, host, layout{})
	if err != nil || plan.Shm != "mode=1777,size=67108864,uid=1000,gid=1000" || *plan.Owner != (fileOwner{1000, 1000}) {
		t.Errorf("shared memory %q, owner %v, %v", plan.Shm, plan.Owner, err)
	}
}

// Whatever fails of the network, the pod is gone and its address free.
func TestANetworkThatFails(t *testing.T) {
	n := newFakeNode(t)
	n.network.attach = errors.New("no address left")
	if _, err := n.m.RunPod(t.Context(), networked("a"), ""); err == nil || !strings.Contains(err.Error(), "no address left") {
		t.Errorf("run: %v", err)
	}
	n.network.attach, n.network.ready = nil, errors.New("no configuration")
	_, err := n.m.RunPod(t.Context(), networked("a"), "")
	wantError(t, "run without a network", err, ErrNotReady)
	n.pod("b") // the host's network is there
	if pods := n.m.Pods(); len(pods) != 1 {
		t.Errorf("%d pods are listed", len(pods))
	}
}

// A pod whose network can't be released stays, and keeps what the next try needs.
func TestANetworkThatCantBeReleased(t *testing.T) {
	n := newFakeNode(t)
	pod := n.networked("a")
	cfg := containerConfig("c")
	cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	id, err := n.m.CreateContainer(t.Context(), pod, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	n.network.detach = errors.New("the plugin fails")
	if err := n.m.RemovePod(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "the plugin fails") {
		t.Fatalf("remove: %v", err)
	}
	if st := n.podStatus(pod); st.State != podStopped {
		t.Errorf("the pod: %+v", st)
	}
	if st := n.container(id); st.State != ctrExited {
		t.Errorf("its container: %+v", st)
	}
	if n.shim.pods[pod].Status == shimapi.StatusStopped {
		t.Error("the pause process, which holds the namespace, has ended")
	}
	n.restart() // tries again, in vain
	if st := n.podStatus(pod); st.State != podStopped {
		t.Errorf("the pod after a restart: %+v", st)
	}
	n.network.detach = nil
	if err := n.m.RemovePod(t.Context(), pod); err != nil {
		t.Errorf("remove when the plugin works again: %v", err)
	}
	wantNothing(t, filepath.Join(n.root, "pods"))
}

// What a plugin lacks that is missing on the node must not keep a pod from being
// removed; a stop waits for it.
func TestANetworkThatLacksSomething(t *testing.T) {
	n := newFakeNode(t)
	pod := n.networked("a")
	n.network.detach = ErrNotReady
	wantError(t, "stop", n.m.StopPod(t.Context(), pod), ErrNotReady)
	if err := n.m.RemovePod(t.Context(), pod); err != nil {
		t.Errorf("remove: %v", err)
	}
	if !slices.Equal(n.network.forgone, []string{pod}) {
		t.Errorf("left to the network: %v", n.network.forgone)
	}
}

// The namespace that somebody unmounted is pinned again for the release, as long as it
// is surely the pod's.
func TestAnUnmountedNamespaceIsPinnedAgain(t *testing.T) {
	n := newFakeNode(t)
	pod := n.networked("a")
	s := n.m.podByID(pod)
	td := n.m.recovery.teardown
	if err := td.pinAgain(s.rec.get()); err != nil {
		t.Fatal(err)
	}
	if got := n.mounts.mounted[s.rec.get().netns]; !strings.HasSuffix(got, "/ns/net") {
		t.Errorf("pinned is %q", got)
	}
	delete(n.mounts.mounted, s.rec.get().netns)
	for name, harm := range map[string]func(*podRecord){
		"of another boot":     func(r *podRecord) { r.BootID = "another" },
		"of a reused pid":     func(r *podRecord) { r.PauseStart++ },
		"of no pause process": func(r *podRecord) { r.PausePID = 0 },
		"of a pid that ended": func(r *podRecord) { r.PausePID = 1 << 30 },
	} {
		rec := *s.rec.get()
		harm(&rec)
		if err := td.pinAgain(&rec); err != nil || n.mounts.mounted[rec.netns] != "" {
			t.Errorf("%s: pinned %q, %v", name, n.mounts.mounted[rec.netns], err)
		}
	}
}

// A pod that was put aside keeps its network namespace until its address is released.
func TestAPodInQuarantineReleasesItsNetwork(t *testing.T) {
	n := newFakeNode(t)
	pod := n.networked("a")
	n.restart(func() {
		if err := os.WriteFile(filepath.Join(n.podDirOf(pod), record.PodFile), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if len(n.network.attached) > 0 {
		t.Errorf("still attached: %v", n.network.attached)
	}
	await(t, "the end of its pause process", func() bool {
		n.shim.mu.Lock()
		defer n.shim.mu.Unlock()
		return len(n.shim.pods) == 0
	})
	wantNothing(t, filepath.Join(n.state, "pods"))
}

// State that no record tells of, as a crash leaves it, is removed at the start.
func TestStateWithoutARecordIsSwept(t *testing.T) {
	n := newFakeNode(t)
	keep := n.networked("keep")
	n.restart(func() {
		for _, dir := range []string{"pods/gone/shm", "containers/gone/rootfs", "containers/gone/images/0"} {
			if err := os.MkdirAll(filepath.Join(n.state, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		n.images.mounted = []string{filepath.Join(n.state, "containers/gone/images/0")}
	})
	if exists(filepath.Join(n.state, "pods/gone")) || exists(filepath.Join(n.state, "containers/gone")) || len(n.images.mounted) > 0 {
		t.Errorf("what has no record is still there; mounted: %v", n.images.mounted)
	}
	if !exists(filepath.Join(n.state, "pods", keep, "shm")) {
		t.Error("the state of a pod is gone")
	}
}
