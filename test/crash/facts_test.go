package crash

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
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
)

// facts are what the machine has of a node, a line each, in order.
type facts []string

// facts reads processes, mounts, links, NAT rules, leases, cgroups and files.
// The daemon and the witness's processes, which come and go, are left out.
func (d *daemon) facts() facts {
	d.t.Helper()
	var out facts
	for _, read := range []func() (facts, error){
		d.processes, d.mounts, d.ports, d.rules, d.leases, d.cgroups, d.files,
	} {
		f, err := read()
		if err != nil {
			d.t.Fatal(err)
		}
		out = append(out, f...)
	}
	if d.shimKills > 0 {
		out = slices.DeleteFunc(out, func(f string) bool {
			return strings.HasPrefix(f, "file run/shims/") || strings.HasPrefix(f, "process ") && strings.Contains(f, "berth-shim --dir")
		})
	}
	slices.Sort(out)
	return out
}

// settled checks that the facts become want. Some take their time: what a killed
// daemon started may end after it, and the kernel frees links by itself.
func (d *daemon) settled(when string, want facts) {
	d.t.Helper()
	var diff string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if diff = want.diff(d.facts()); diff == "" {
			return
		}
	}
	d.t.Errorf("%s, the machine differs (+ left, - lost):\n%s", when, diff)
}

// diff is what others have more and less.
func (f facts) diff(others facts) string {
	var b strings.Builder
	for sign, pair := range map[string][2]facts{"+ ": {others, f}, "- ": {f, others}} {
		for _, line := range pair[0] {
			if !slices.Contains(pair[1], line) {
				b.WriteString(sign + line + "\n")
			}
		}
	}
	return b.String()
}

// naming are the facts that name an ID and are the kernel's or the network's.
func (d *daemon) naming(id string) facts {
	d.t.Helper()
	var out facts
	for _, f := range d.facts() {
		file := strings.HasPrefix(f, "file root/pods/") || strings.HasPrefix(f, "file root/quarantine/")
		if strings.Contains(f, id[:13]) && !file {
			out = append(out, f)
		}
	}
	return out
}

func (d *daemon) processes() (facts, error) {
	all, err := d.Descendants()
	var out facts
	for _, p := range all {
		var pid, parent int
		if _, err := fmt.Sscanf(p, "process %d (parent %d,", &pid, &parent); err != nil {
			return nil, err
		}
		if pid == d.PID() {
			continue
		}
		cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || d.witness != nil && strings.Contains(string(cgroup), d.witness.ID) {
			continue
		}
		_, command, _ := strings.Cut(p, "): ")
		out = append(out, fmt.Sprintf("process %d %s", pid, command))
	}
	return out, err
}

func (d *daemon) mounts() (facts, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, d.Dir+"/"), false
	})
	var out facts
	for _, i := range infos {
		out = append(out, "mount "+i.FSType+" "+d.rel(i.Mountpoint))
	}
	return out, err
}

func (d *daemon) rel(path string) string {
	r, err := filepath.Rel(d.Dir, path)
	if err != nil {
		return path
	}
	return r
}

// ports are the host ends of the pods' links.
func (d *daemon) ports() (facts, error) {
	br, err := netlink.LinkByName(d.Bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // a link came or went meanwhile, of whomever
		links, err = netlink.LinkList()
	}
	var out facts
	for _, l := range links {
		if l.Attrs().MasterIndex == br.Attrs().Index {
			out = append(out, "link "+l.Attrs().Name)
		}
	}
	return out, err
}

// rules are the NAT rules and chains of our pods.
func (d *daemon) rules() (facts, error) {
	ours := []string{strings.TrimSuffix(d.Subnet, "0/24")}
	for _, id := range d.Pods() {
		// As the reference plugins name their chains.
		chain := fmt.Sprintf("CNI-%x", sha512.Sum512([]byte("berth"+id)))[:28]
		ours = append(ours, id, chain)
	}
	text, err := exec.Command("iptables-save", "-t", "nat").Output() // the subnet is IPv4's
	if err != nil {
		return nil, fmt.Errorf("iptables-save: %w", err)
	}
	var out facts
	for line := range strings.Lines(string(text)) {
		if slices.ContainsFunc(ours, func(s string) bool { return strings.Contains(line, s) }) {
			out = append(out, "rule "+strings.TrimSpace(line))
		}
	}
	return out, nil
}

// leases are the addresses that the IPAM plugin holds, with the pod's ID.
func (d *daemon) leases() (facts, error) {
	files, err := filepath.Glob(filepath.Join(d.Dir, "leases", "*", "[0-9]*"))
	var out facts
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

func (d *daemon) cgroups() (facts, error) {
	names := []string{d.CgroupMark}
	for _, id := range d.Pods() {
		names = append(names, "berth-"+id[:13])
	}
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*")
	var out facts
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

func (d *daemon) files() (facts, error) {
	var out facts
	for _, top := range []string{d.Root, d.State} {
		err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it vanished while it was read
			}
			if err != nil {
				return err
			}
			out = append(out, "file "+d.rel(path))
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
