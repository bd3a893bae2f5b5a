package shim_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

// TestLimitsOfExecs: an exec has the seccomp profile, capabilities and devices of its own
// container, also when others have other ones, after an update, and with another shim.
func TestLimitsOfExecs(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	withProfile := func(_ *shimapi.CreateRequest, s *specs.Spec) {
		refused := specs.LinuxSyscall{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{refused}}
	}
	bound := []*shimapi.CreateRequest{n.Run(pod, "sleep 1000", withProfile), n.Run(pod, "sleep 1000", withProfile)}
	free := n.Run(pod, "sleep 1000")
	onNoList := int(unix.Mkdev(10, 230))
	if err := unix.Mknod(n.Rootfs+"/tmp/forbidden", unix.S_IFCHR|0o666, onNoList); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		for i, r := range append(bound, free) {
			dir := fmt.Sprintf("/tmp/%s%d", when, i)
			_, end, err := n.Exec(r, 0, "/bin/busybox", "mkdir", dir)
			if err != nil {
				t.Fatal(err)
			}
			_, missing := os.Stat(n.Rootfs + dir)
			if made := missing == nil; made != (r == free) || (end.Code == 0) != made {
				t.Errorf("%s: container %d made a directory: %t, exit code %d", when, i, made, end.Code)
			}
			said, end, err := n.Exec(r, 0, "/bin/sh", "-c", "echo >/dev/null && cat /tmp/forbidden")
			if err != nil || !strings.Contains(said, "not permitted") {
				t.Errorf("%s: devices of container %d: exit code %d, %q, %v", when, i, end.Code, said, err)
			}
		}
	}
	check("first")
	limit := int64(32 << 20)
	for _, r := range append(bound, free) {
		resources := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
		update := &shimapi.UpdateRequest{ID: r.ID, Resources: resources}
		if err := n.Shim.Update(n.Ctx, update); err != nil {
			t.Fatal(err)
		}
	}
	check("updated")
	n.KillShim()
	check("adopted")
}
