package registry

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// insideEnv tells a test that it runs in a network namespace made for it.
const insideEnv = "BERTH_REGISTRY_NETNS"

// inNetns runs the calling test again in a network namespace of its own whose loopback
// device has the addresses. It gives false outside, where nothing is left to do.
func inNetns(t *testing.T, addresses ...string) bool {
	t.Helper()
	if os.Getenv(insideEnv) == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, unix.EPERM) {
			t.Skipf("a network namespace can't be made here: %v", err)
		}
		if err != nil {
			t.Errorf("in its namespace: %v\n%s", err, out)
		}
		return false
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	for _, a := range addresses {
		var addr *netlink.Addr
		if err == nil {
			addr, err = netlink.ParseAddr(a)
		}
		if err == nil {
			addr.Flags = unix.IFA_F_NODAD
			err = netlink.AddrAdd(lo, addr)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}
