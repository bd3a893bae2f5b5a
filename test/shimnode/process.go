package shimnode

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// KillShim kills the shim and waits for its replacement.
func (n *Node) KillShim() {
	n.T.Helper()
	id, pid := n.Shim.ID(), n.Shim.PID()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		n.T.Fatal(err)
	}
	n.TakeReplacement(id, pid)
}

// TakeReplacement waits until another process than pid serves a shim, and takes that shim.
func (n *Node) TakeReplacement(id string, pid int) {
	n.T.Helper()
	Eventually(n.T, "the shim is dead", func() bool {
		sh, err := n.Get(id)
		return err == nil && sh.PID() != pid
	})
	sh, err := n.Get(id)
	if err != nil {
		n.T.Fatal(err)
	}
	n.Shim = sh
}

// Reopen lets go of the shims and connects again: another daemon, with the configuration of now.
func (n *Node) Reopen() {
	n.T.Helper()
	if err := n.Close(); err != nil {
		n.T.Fatal(err)
	}
	n.Open()
}

// NoSessions checks that no exec's cgroup is left.
func (n *Node) NoSessions(r *shimapi.CreateRequest) {
	n.T.Helper()
	Eventually(n.T, "no session's cgroup is left", func() bool {
		left, _ := filepath.Glob("/sys/fs/cgroup/*" + n.Cgroup + "/" + r.ID + "/exec-*")
		return len(left) == 0
	})
}

// PSS is the proportional set size of a process in KiB, 0 when it is gone.
func PSS(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var n int
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &n); err == nil {
			return n
		}
	}
	return 0
}

// MemoryLimit is an alteration of a request: a limit in bytes.
func MemoryLimit(limit int64) func(*shimapi.CreateRequest, *specs.Spec) {
	return func(_ *shimapi.CreateRequest, s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	}
}
