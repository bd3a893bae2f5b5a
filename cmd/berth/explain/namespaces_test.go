package explain

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/sandbox/record"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("new namespaces need root")
	}
}

// child runs a command, in new namespaces when flags ask for them, until the test ends.
func child(t *testing.T, flags uintptr, command ...string) shimapi.Record {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	start, err := shimapi.StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return shimapi.Record{Status: shimapi.StatusRunning, PID: cmd.Process.Pid, StartTime: start, StartedAt: time.Now(), BootID: bootID()}
}

// A namespace is the machine's, the pod's, another container's or the container's own.
func TestOwnersOfNamespaces(t *testing.T) {
	needRoot(t)
	pause := child(t, syscall.CLONE_NEWUTS|syscall.CLONE_NEWIPC, "sleep", "60")
	of := func(kind string) string { return "/proc/" + strconv.Itoa(pause.PID) + "/ns/" + kind }
	target := child(t, syscall.CLONE_NEWNET, "sleep", "60")
	debug := child(t, 0, "nsenter", "--uts="+of("uts"), "--net=/proc/"+strconv.Itoa(target.PID)+"/ns/net", "unshare", "--ipc", "sleep", "60")
	pods, _ := records(t, debug, "")
	p := pods.all[0]
	p.PausePID, p.PauseStart = pause.PID, pause.StartTime
	p.containers[1].fact = target
	want := []string{
		"namespaces/uts: the pod's, ", "namespaces/net: that of container shop, ", "namespaces/ipc: its own, ",
		"namespaces/user: the host's, ", "namespaces/kept by: pause, pid " + strconv.Itoa(pause.PID),
	}
	var facts string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, facts = report(t, pods, "bbbb"); strings.Contains(facts, want[2]) { // the last program is executed
			break
		}
	}
	wantAll(t, "facts", facts, want...)
}

// A first process that does not wait for its children is told of.
func TestZombies(t *testing.T) {
	needRoot(t)
	script := "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do true & done; exec sleep 60"
	fact := child(t, syscall.CLONE_NEWPID, "sh", "-c", script)
	pods, _ := records(t, fact, "")
	var found string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if found, _ = report(t, pods, "bbbb"); strings.Contains(found, "does not reap: 12 zombies") {
			return
		}
	}
	t.Errorf("12 zombies of a first process are not found:\n%s", found)
}

// podNetwork pins a new network namespace as the one of the pod whose state is
// below dir, and lets change set it up.
func podNetwork(t *testing.T, dir string, change func(h *netlink.Handle) error) {
	t.Helper()
	pinned := filepath.Join(dir, "net")
	write(t, pinned, "")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	made, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	err = unix.Mount("/proc/thread-self/ns/net", pinned, "", unix.MS_BIND, "")
	if back := netns.Set(own); back != nil {
		t.Fatal(back)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(pinned, unix.MNT_DETACH) })
	h, err := netlink.NewHandleAt(made)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := change(h); err != nil {
		t.Fatal(err)
	}
}

// up sets lo and an interface eth0 with an address up; a bridge, which every kernel
// that runs pods has.
func up(h *netlink.Handle, address string) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	eth0 := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	for _, do := range []func() error{
		func() error { return h.LinkSetUp(lo) },
		func() error { return h.LinkAdd(eth0) },
		func() error { return h.AddrAdd(eth0, addr) },
		func() error { return h.LinkSetUp(eth0) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// The pod's interfaces, addresses and routes are read in its own namespace.
func TestPodNetwork(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		change func(h *netlink.Handle) error
		want   []string
	}{
		"whole": {func(h *netlink.Handle) error {
			if err := up(h, "10.7.0.2/24"); err != nil {
				return err
			}
			return h.RouteAdd(&netlink.Route{Gw: net.IPv4(10, 7, 0, 1)})
		}, []string{"network/lo: up, ", "network/eth0: up, mtu 1500, 10.7.0.2/24", "network/default route: by 10.7.0.1"}},
		"no route": {func(h *netlink.Handle) error { return up(h, "10.7.0.2/24") },
			[]string{"network/default route: none", "network: the pod has no way out of its own network"}},
		"another address": {func(h *netlink.Handle) error { return up(h, "10.7.0.9/24") },
			[]string{"network: address 10.7.0.2 was given to the pod and is not on any interface"}},
		"down": {func(*netlink.Handle) error { return nil }, []string{"network/lo: down, ", "network: interface lo is down"}},
	} {
		t.Run(name, func(t *testing.T) {
			pods, _ := records(t, stopped(0), "")
			p := pods.all[0]
			withPause(t, p)
			p.Network = &record.Network{IPs: []string{"10.7.0.2"}}
			podNetwork(t, p.state, c.change)
			found, facts := report(t, pods, "aaaa")
			wantAll(t, name, found+"\n"+facts, c.want...)
			p.Runtime = &record.Runtime{Shim: "/x/containerd-shim-runsc-v1", ShimCgroup: "/pods/a/berth-shim-1"}
			found, facts = report(t, pods, "aaaa")
			wantAll(t, name, facts, "process/shim's cgroup: /pods/a/berth-shim-1")
			if name == "another address" && (!strings.Contains(facts, "network/address: 10.7.0.2 is on no interface here") || strings.Contains(found, "address 10.7.0.2")) {
				t.Errorf("a network that the runtime took over:\n%s\n%s", found, facts)
			}
			p.Runtime = nil
			if name == "whole" && strings.Contains(found, "network:") {
				t.Errorf("a whole network is found fault with:\n%s", found)
			}
		})
	}
}

// A network namespace that is gone matters while the pod is to be ready.
func TestPodNetworkGone(t *testing.T) {
	pods, _ := records(t, stopped(0), "")
	p := pods.all[0]
	withPause(t, p)
	found, facts := report(t, pods, "aaaa")
	wantAll(t, "gone", found+"\n"+facts, "network/namespace: gone", "network: the pod's network namespace is not there any more")
	p.config.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
	}}
	found, facts = report(t, pods, "aaaa")
	wantAll(t, "host network", facts, "network/host network: it shares the machine's interfaces and ports")
	if strings.Contains(found, "network:") {
		t.Errorf("a pod on the host's network is found fault with:\n%s", found)
	}
}
