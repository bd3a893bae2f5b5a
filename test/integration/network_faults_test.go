package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// faulty is a CNI plugin that attaches to nothing. It gives no address while there is
// a file "bare". Its ADD hangs while there is a file "stuck", its DEL while there is "hang".
const faulty = `#!/bin/sh
cat >/dev/null
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}' ;;
ADD)
	while [ -e "%[1]s/stuck" ]; do sleep 0.1; done
	if [ -e "%[1]s/bare" ]; then
		echo '{"cniVersion":"1.0.0"}'
	else
		echo '{"cniVersion":"1.0.0","ips":[{"address":"10.7.7.7/24"}]}'
	fi ;;
DEL)
	while [ -e "%[1]s/hang" ]; do sleep 0.1; done
	echo "$CNI_CONTAINERID" >>"%[1]s/detached" ;;
esac
`

// faultyNode is a node with that plugin, in a directory with its switches.
type faultyNode struct {
	*suite
	t   *testing.T
	dir string
}

func withFaultyPlugin(t *testing.T, args ...string) faultyNode {
	t.Helper()
	f := faultyNode{t: t, dir: t.TempDir()}
	if err := os.WriteFile(f.plugin(), fmt.Appendf(nil, faulty, f.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	f.suite = own(t, node.Options{NoNetwork: true, Args: append([]string{"--cni-bin-dir", f.dir}, args...)})
	list := `{"cniVersion":"1.0.0","name":"faulty","plugins":[{"type":"faulty"}]}`
	if err := os.WriteFile(filepath.Join(f.ConfDir, "10-faulty.conflist"), []byte(list), 0o644); err != nil {
		t.Fatal(err)
	}
	f.restart() // it reads the configuration
	return f
}

func (f faultyNode) plugin() string { return filepath.Join(f.dir, "faulty") }

func (f faultyNode) restart() {
	f.t.Helper()
	if err := f.Kill(); err != nil {
		f.t.Fatal(err)
	}
	if err := f.Restart(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	f.resubscribe(f.t)
}

// turn makes a switch's file and gives the way to turn it off.
func (f faultyNode) turn(name string) (off func()) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		f.t.Fatal(err)
	}
	off = func() { _ = os.Remove(path) }
	f.t.Cleanup(off)
	return off
}

func (f faultyNode) detached(pod string) bool {
	data, _ := os.ReadFile(filepath.Join(f.dir, "detached"))
	return strings.Contains(string(data), pod)
}

// The pods of an earlier boot, or of a shim that died while there was no daemon, must
// be detached. A plugin that hangs there, perhaps because it waits for a pod of this
// node, must not keep the node from serving.
func TestStartDoesNotWaitForTheNetwork(t *testing.T) {
	f := withFaultyPlugin(t)
	pods := []*pod{f.pod(t), f.pod(t), f.pod(t), f.pod(t)}
	shim := f.shim(t)
	if err := f.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	release := f.turn("hang")
	began := time.Now()
	if err := f.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > client.Bound(10*time.Second) {
		t.Errorf("ready after %v", took)
	}
	f.resubscribe(t)
	for _, p := range pods {
		if st := p.Status(); st.GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("a pod without its shim is %v", st.GetState())
		}
	}
	began = time.Now()
	f.pod(t)
	if took := time.Since(began); took > client.Bound(10*time.Second) {
		t.Errorf("RunPodSandbox beside pods that hang took %v", took)
	}
	stopped := make(chan error, len(pods))
	for _, p := range pods {
		go func() {
			_, err := f.Runtime.StopPodSandbox(within(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID})
			stopped <- err
		}()
	}
	select {
	case err := <-stopped:
		t.Errorf("StopPodSandbox does not wait for the network: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	release()
	for range pods {
		if err := <-stopped; err != nil {
			t.Errorf("StopPodSandbox: %v", err)
		}
	}
	for _, p := range pods {
		if !f.detached(p.ID) {
			t.Errorf("pod %s was stopped and not detached", p.ID)
		}
	}
}

// A plugin that hangs holds its pod no longer than timeouts says, and what it began is
// undone; a DEL that hangs fails the stop, which the kubelet tries again.
func TestTimeoutsOfThePlugin(t *testing.T) {
	f := withFaultyPlugin(t, "--timeouts", "cni-add=2s,cni-del=3s")
	release := f.turn("stuck")
	began := time.Now()
	_, err := f.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: f.podConfig(t)})
	if took := time.Since(began); err == nil || took < 2*time.Second || took > client.Bound(20*time.Second) {
		t.Errorf("with an ADD that hangs RunPodSandbox took %v: %v", took, err)
	}
	if list, err := f.Runtime.ListPodSandbox(within(t), &runtimeapi.ListPodSandboxRequest{}); err != nil || len(list.GetItems()) != 0 {
		t.Errorf("pods that are left: %v, %v", list, err)
	}
	release()
	p := f.pod(t)
	release = f.turn("hang")
	began = time.Now()
	_, err = f.Runtime.StopPodSandbox(within(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID})
	if took := time.Since(began); err == nil || took < 3*time.Second || took > client.Bound(20*time.Second) {
		t.Errorf("with a DEL that hangs StopPodSandbox took %v: %v", took, err)
	}
	release()
	if _, err := f.Runtime.StopPodSandbox(within(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		t.Errorf("StopPodSandbox when the plugin answers again: %v", err)
	}
	if !f.detached(p.ID) {
		t.Error("the pod was stopped and not detached")
	}
}

// A result without an address is a failure that the kubelet tries again.
func TestPodWithoutAnAddressFails(t *testing.T) {
	f := withFaultyPlugin(t)
	restore := f.turn("bare")
	c := f.podConfig(t)
	_, err := f.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: c})
	if err == nil || !strings.Contains(err.Error(), "no IP address") {
		t.Errorf("RunPodSandbox: %v", err)
	}
	if list, err := f.Runtime.ListPodSandbox(within(t), &runtimeapi.ListPodSandboxRequest{}); err != nil || len(list.GetItems()) != 0 {
		t.Errorf("pods that are left: %v, %v", list, err)
	}
	restore()
	if ip := f.pod(t).Status().GetNetwork().GetIp(); ip != "10.7.7.7" {
		t.Errorf("the next try got the address %q", ip)
	}
}

// The plugin was uninstalled. A pod that is removed all the same goes, and is detached
// when the plugin is back.
func TestPodGoesWithoutItsPlugin(t *testing.T) {
	f := withFaultyPlugin(t)
	p := f.pod(t)
	away := f.plugin() + ".away"
	if err := os.Rename(f.plugin(), away); err != nil {
		t.Fatal(err)
	}
	_, err := f.Runtime.StopPodSandbox(within(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID})
	wantCode(t, "StopPodSandbox", err, codes.Unavailable)
	if err == nil || !strings.Contains(err.Error(), f.dir) {
		t.Errorf("the error does not say where the plugin belongs: %v", err)
	}
	if _, err := f.Runtime.RemovePodSandbox(within(t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		t.Errorf("RemovePodSandbox: %v", err)
	}
	if list, err := f.Runtime.ListPodSandbox(within(t), &runtimeapi.ListPodSandboxRequest{}); err != nil || len(list.GetItems()) != 0 {
		t.Errorf("pods that are left: %v, %v", list, err)
	}
	if f.detached(p.ID) {
		t.Fatal("detached without the plugin")
	}
	if err := os.Rename(away, f.plugin()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !f.detached(p.ID); time.Sleep(100 * time.Millisecond) { // as the kubelet asks
		if _, err := f.Runtime.Status(within(t), &runtimeapi.StatusRequest{}); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("the pod was not detached when the plugin was back")
		}
	}
}

// Somebody unmounts the pinned network namespace of a pod. Its pause process still holds
// it, and with it all that the pod has of the network can be released.
func TestLostNamespaceIsReleasedWhole(t *testing.T) {
	p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 18081}}
	})
	ip := p.Status().GetNetwork().GetIp()
	if !strings.Contains(natRules(t), ip+"/32") {
		t.Skip("no masquerading by iptables here")
	}
	if err := unix.Unmount(filepath.Join(shared.State, "pods", p.ID, "net"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	p.End()
	for line := range strings.Lines(natRules(t)) {
		if strings.Contains(line, ip+"/32") || strings.Contains(line, p.ID) {
			t.Errorf("stays: %s", line)
		}
	}
}

func natRules(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(within(t), "iptables", "-w", "-t", "nat", "-S").CombinedOutput()
	if err != nil {
		t.Skipf("iptables: %v %s", err, out)
	}
	return string(out)
}

// Settings of an interface are written when CNI has made it, the domain name in the
// pod's own UTS namespace; in a user namespace the pod's root could write neither.
func TestSysctlsOfAnInterface(t *testing.T) {
	want := map[string]string{
		"net.ipv4.conf.eth0.proxy_arp":       "1",
		"net/ipv4/neigh/eth0/gc_stale_time":  "77",
		"net.ipv4.conf.all.accept_redirects": "0",
		"kernel.domainname":                  "pods.example.test",
	}
	if _, err := os.Stat("/proc/sys/net/ipv6/conf"); err == nil {
		want["net.ipv6.conf.eth0.hop_limit"] = "33"
	}
	host, err := os.ReadFile("/proc/sys/kernel/domainname")
	if err != nil {
		t.Fatal(err)
	}
	set := func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = want }
	kinds := map[string][]func(*runtimeapi.PodSandboxConfig){"plain": {set}, "user namespace": {withUsers(400000), set}}
	for name, change := range kinds {
		t.Run(name, func(t *testing.T) {
			p := shared.pod(t, change...)
			c := p.idle("c", sameNamespaces(p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()))
			for sysctl, value := range want {
				path := strings.ReplaceAll(sysctl, ".", "/")
				if got := strings.TrimSpace(c.Sh("cat /proc/sys/" + path)); got != value {
					t.Errorf("%s is %q, want %q", sysctl, got, value)
				}
			}
		})
	}
	if now, err := os.ReadFile("/proc/sys/kernel/domainname"); err != nil || string(now) != string(host) {
		t.Errorf("the host's domain name became %q, %v", now, err)
	}
	c := shared.podConfig(t)
	c.Linux.Sysctls = map[string]string{"net.ipv4.conf.eth7.proxy_arp": "1"}
	_, err = shared.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: c})
	wantCode(t, "a sysctl of an interface that is not there", err, codes.InvalidArgument)
	if err == nil || !strings.Contains(err.Error(), "net.ipv4.conf.eth7.proxy_arp") {
		t.Errorf("the error does not name it: %v", err)
	}
}
