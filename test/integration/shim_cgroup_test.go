package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/test/client"
)

// TestShimCgroup: the foreign shim of each pod is in a cgroup of its own from its first
// instruction, in the pod's or below the one that the table names, and that goes with the pod,
// also when the shim is killed, or berth's shim together with the daemon.
func TestShimCgroup(t *testing.T) {
	const named = "/berth-test-shims"
	for where, kill := range map[string]func(*suite, *pod) error{
		"pod": func(s *suite, p *pod) error { return unix.Kill(p.foreignShim(t, s), unix.SIGKILL) },
		named: func(s *suite, _ *pod) error {
			if err := s.Kill(); err != nil {
				return err
			}
			if err := unix.Kill(s.shim(t), unix.SIGKILL); err != nil {
				return err
			}
			return s.Restart(t.Context())
		},
	} {
		s := runcNode(t, "runc", fmt.Sprintf(`,no_sandbox_container=true,shim_cgroup=%q`, where))
		var p *pod
		for _, kills := range []bool{false, true} {
			p = s.pod(t)
			c := p.Start(client.Shell("c", "exec sleep 1000"))
			dir := cgroupDir(t, p.foreignShim(t, s), "memory")
			parent := filepath.Dir(cgroupDir(t, (&ctr{Container: c, p: p}).hostPID(), "memory"))
			if where == named {
				parent = filepath.Join("/sys/fs/cgroup/memory", named)
				if v2 {
					parent = filepath.Join("/sys/fs/cgroup", named)
				}
			}
			if want := filepath.Join(parent, "berth-shim-"+p.ID[:13]); filepath.Clean(dir) != filepath.Clean(want) {
				t.Errorf("%s: the shim is in %s, want %s", where, dir, want)
			}
			// That of a Go program which was moved once it ran is some hundred KiB.
			if used := memoryOf(t, dir); used < 2<<20 {
				t.Errorf("%s: the shim's cgroup accounts for %d bytes", where, used)
			}
			if kills {
				if err := kill(s, p); err != nil {
					t.Fatal(err)
				}
			}
			p.End()
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s, killed %t: the shim's cgroup is there after its pod", where, kills)
			}
		}
	}
	found, err := filepath.Glob("/sys/fs/cgroup/*" + named)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(found, "/sys/fs/cgroup"+named) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			t.Errorf("the cgroup above those of the shims: %s: %v", dir, err)
		}
	}
}

// memoryOf is what a cgroup uses, in bytes.
func memoryOf(t *testing.T, dir string) int {
	t.Helper()
	name := "memory.usage_in_bytes"
	if v2 {
		name = "memory.current"
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
