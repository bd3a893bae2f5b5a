package cni

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// realPlugins returns the directory of the reference plugins.
func realPlugins() string {
	for _, d := range []string{"/opt/cni/bin", "/usr/lib/cni", "../bin/cni"} {
		if _, err := os.Stat(filepath.Join(d, "bridge")); err == nil {
			abs, _ := filepath.Abs(d)
			return abs
		}
	}
	return ""
}

// cannotRun says why tests with real plugins can't run here; "" when they can.
func cannotRun() string {
	if os.Geteuid() != 0 {
		return "not root"
	}
	if realPlugins() == "" {
		return "no CNI plugins in /opt/cni/bin, /usr/lib/cni or bin/cni"
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		return "iptables is not installed"
	}
	return ""
}

// onNode runs f as if on a node of its own: the calling goroutine's thread,
// and so every plugin it starts, is in a new network namespace that ends with
// the test, and whatever f leaves there with it.
func onNode(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if reason := cannotRun(); reason != "" {
		t.Skip(reason)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		f(t)
	}()
	<-done
}

// newPodNS pins a new network namespace below dir and returns its path.
func newPodNS(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	write(t, path, nil)
	errs := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
			err = unix.Mount(own, path, "", unix.MS_BIND, "")
		}
		errs <- err
	}()
	if err := <-errs; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// inNS runs f in the network namespace at path, on a thread of its own.
func inNS(t *testing.T, path string, f func() error) {
	t.Helper()
	errs := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		errs <- err
	}()
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

// state lists what an attachment may leave on the node: links other than lo
// and the bridge itself, NAT rules, addresses marked as in use.
func state(t *testing.T, bridge, ipam string) string {
	t.Helper()
	var out []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if n := l.Attrs().Name; n != bridge && n != "lo" {
			out = append(out, "link "+n+" "+l.Type())
		}
	}
	for _, cmd := range []string{"iptables-save", "ip6tables-save"} {
		out = append(out, rules(t, cmd)...)
	}
	files, _ := filepath.Glob(filepath.Join(ipam, "*", "*"))
	for _, f := range files {
		if b := filepath.Base(f); b != "lock" && !strings.HasPrefix(b, "last_reserved_ip") {
			out = append(out, "lease "+b)
		}
	}
	return strings.Join(out, "\n")
}

// sharedRule matches what the portmap plugin keeps for all pods together.
var sharedRule = regexp.MustCompile(`^(#|\*|:|COMMIT)|CNI-HOSTPORT-(SETMARK|MASQ)|-j CNI-HOSTPORT-DNAT`)

func rules(t *testing.T, command string) []string {
	t.Helper()
	data, err := exec.Command(command).Output()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	var out []string
	for line := range bytes.Lines(data) {
		s := strings.TrimSpace(string(line))
		if strings.HasPrefix(s, ":CNI-") && !strings.HasPrefix(s, ":CNI-HOSTPORT") || !sharedRule.MatchString(s) {
			out = append(out, command+" "+s)
		}
	}
	return out
}
