package node

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Facts are what the machine has of a node, a line each, in order.
type Facts []string

// Facts reads processes, mounts, links, NAT rules, leases, cgroups and files of the
// node. The daemon is left out, and so are the processes of the containers passed over,
// by their full IDs.
func (n *Node) Facts(passedOver ...string) (Facts, error) {
	var out Facts
	processes := func() (Facts, error) { return n.processFacts(passedOver) }
	for _, read := range []func() (Facts, error){
		processes, n.MountFacts, n.PortFacts, n.RuleFacts, n.leaseFacts, n.CgroupFacts, n.fileFacts,
	} {
		f, err := read()
		if err != nil {
			return nil, err
		}
		out = append(out, f...)
	}
	slices.Sort(out)
	return out, nil
}

// Diff is what others have more (+) and less (-), a line each.
func (f Facts) Diff(others Facts) string {
	var b strings.Builder
	for _, line := range others {
		if !slices.Contains(f, line) {
			b.WriteString("+ " + line + "\n")
		}
	}
	for _, line := range f {
		if !slices.Contains(others, line) {
			b.WriteString("- " + line + "\n")
		}
	}
	return b.String()
}

// processFacts leaves out the daemon, and those in the cgroups of the containers passed over.
func (n *Node) processFacts(passedOver []string) (Facts, error) {
	all, err := n.Descendants()
	var out Facts
	for _, p := range all {
		var pid, parent int
		if _, err := fmt.Sscanf(p, "process %d (parent %d,", &pid, &parent); err != nil {
			return nil, err
		}
		if pid == n.PID() {
			continue
		}
		cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || slices.ContainsFunc(passedOver, func(id string) bool { return strings.Contains(string(cgroup), id) }) {
			continue
		}
		_, command, _ := strings.Cut(p, "): ")
		out = append(out, fmt.Sprintf("process %d %s", pid, command))
	}
	return out, err
}

// MountFacts are the mounts below the node's directory, with their types.
func (n *Node) MountFacts() (Facts, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, n.Dir+"/"), false
	})
	var out Facts
	for _, i := range infos {
		out = append(out, "mount "+i.FSType+" "+n.rel(i.Mountpoint))
	}
	return out, err
}

func (n *Node) rel(path string) string {
	r, err := filepath.Rel(n.Dir, path)
	if err != nil {
		return path
	}
	return r
}

// PortFacts are the host ends of the pods' links.
func (n *Node) PortFacts() (Facts, error) {
	ports, err := bridgePorts(n.Bridge)
	var out Facts
	for _, p := range ports {
		out = append(out, "link "+p)
	}
	return out, err
}

// RuleFacts are the NAT rules and chains of our pods.
func (n *Node) RuleFacts() (Facts, error) {
	ours := []string{strings.TrimSuffix(n.Subnet, "0/24")}
	for _, id := range n.Pods() {
		// As the reference plugins name their chains.
		chain := fmt.Sprintf("CNI-%x", sha512.Sum512([]byte("berth"+id)))[:28]
		ours = append(ours, id, chain)
	}
	text, err := exec.Command("iptables-save", "-t", "nat").Output() // the subnet is IPv4's
	if err != nil {
		return nil, fmt.Errorf("iptables-save: %w", err)
	}
	var out Facts
	for line := range strings.Lines(string(text)) {
		if slices.ContainsFunc(ours, func(s string) bool { return strings.Contains(line, s) }) {
			out = append(out, "rule "+strings.TrimSpace(line))
		}
	}
	return out, nil
}

// leaseFacts are the addresses that the IPAM plugin holds, with the pod's ID.
func (n *Node) leaseFacts() (Facts, error) {
	files, err := filepath.Glob(filepath.Join(n.Dir, "leases", "*", "[0-9]*"))
	var out Facts
	for _, f := range files {
		data, rerr := os.ReadFile(f)
		if rerr != nil {
			continue // released meanwhile
		}
		id, _, _ := strings.Cut(string(data), "\r\n")
		out = append(out, "lease "+filepath.Base(f)+" "+id)
	}
	return out, err
}

// CgroupFacts are the cgroups that tests asked for and those of pods, without those of execs.
func (n *Node) CgroupFacts() (Facts, error) {
	names := []string{n.CgroupMark}
	for _, id := range n.Pods() {
		names = append(names, "berth-"+id[:13])
	}
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*")
	var out Facts
	for _, h := range append(hierarchies, "/sys/fs/cgroup") {
		for _, name := range names {
			_ = filepath.WalkDir(filepath.Join(h, name), func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() && !strings.Contains(path, "/exec-") {
					out = append(out, "cgroup "+path)
				}
				return nil // what vanishes while it is read is not left
			})
		}
	}
	return out, err
}

// opaque directories are named but not looked into.
func opaque(path string) bool {
	switch filepath.Base(path) {
	case "upper", "work", "rootfs", "empty", ".empty", "shm":
		return true
	}
	parent := filepath.Base(filepath.Dir(path))
	return parent == "layers" || parent == "state"
}

func (n *Node) fileFacts() (Facts, error) {
	var out Facts
	for _, top := range []string{n.Root, n.State} {
		err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it vanished while it was read
			}
			if err != nil {
				return err
			}
			out = append(out, "file "+n.rel(path))
			if e.IsDir() && opaque(path) {
				return filepath.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
