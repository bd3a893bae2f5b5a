package explain

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"berth/oci"
)

// Isolation is what weakens one running container, told by the kernel.
type Isolation struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Pod        string   `json:"pod"`
	User       string   `json:"user"`       // uid inside, and whether it is the machine's
	Privileged bool     `json:"privileged"` // nothing is left that holds it back
	Weak       []string `json:"weak"`       // why, strongest first
}

// Audit looks at every running container, the least isolated first.
func (ps *Pods) Audit() []Isolation {
	var out []Isolation
	for _, p := range ps.all {
		for _, c := range p.containers {
			if s := c.subject(); s.proc.alive() {
				out = append(out, s.isolation())
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Isolation) int {
		if a.Privileged != b.Privileged {
			return map[bool]int{true: -1, false: 1}[a.Privileged]
		}
		return len(b.Weak) - len(a.Weak)
	})
	return out
}

func (s subject) isolation() Isolation {
	is := Isolation{ID: s.ctr.ID, Name: s.ctr.name(), Pod: s.pod.name(), User: "?"}
	if s.hidden() {
		is.Weak = []string{"can't be told: handler " + s.pod.Handler + " keeps its containers in a kernel or machine of its own"}
		return is
	}
	c, err := s.proc.confinement()
	if err != nil {
		is.Weak = []string{"can't be told: " + err.Error()}
		return is
	}
	is.User = c.uid
	if c.hostUser && c.uid == "0" {
		is.User += " of the machine"
	}
	if !c.hostUser {
		is.User += " of a user namespace"
	}
	unmasked := s.ctr.Spec.Linux != nil && len(s.ctr.Spec.Linux.MaskedPaths) == 0
	added, _ := difference(c.bounding, oci.DefaultCapabilities())
	is.Privileged = slices.Contains(c.bounding, "CAP_SYS_ADMIN") && c.seccomp == "0" && unmasked && s.ctr.allDevices()
	if is.Privileged {
		is.Weak = append(is.Weak, "privileged")
	}
	is.Weak = append(is.Weak, s.shared()...)
	if len(added) > 0 {
		is.Weak = append(is.Weak, "may have "+some(added))
	}
	is.Weak = append(is.Weak, s.unguarded(c, unmasked)...)
	return is
}

// hidden tells whether the runtime of a container keeps its processes where the machine's
// kernel does not see them: it has put none of them into the cgroup that was asked for.
func (s subject) hidden() bool { return s.pod.isForeign() && len(s.ctr.fact.CgroupPaths) == 0 }

func (p *pod) isForeign() bool { return p.Runtime != nil && p.Runtime.Shim != "" }

// hidden tells whether nothing of a pod's containers is where the machine's kernel sees it.
func (p *pod) hidden() bool {
	return p.isForeign() && !slices.ContainsFunc(p.containers, func(c *container) bool { return len(c.fact.CgroupPaths) > 0 })
}

// shared are the machine's namespaces that the container is in.
func (s subject) shared() []string {
	var out []string
	for _, kind := range []string{"pid", "net", "ipc", "uts"} {
		if own, err := s.proc.namespace(kind); err == nil && s.owner(kind, own) == hosts {
			out = append(out, "host "+kind)
		}
	}
	return out
}

// unguarded are the guards that are not up.
func (s subject) unguarded(c confinement, unmasked bool) []string {
	var out []string
	if c.seccomp == "0" {
		out = append(out, "no seccomp filter")
	}
	if c.label == "unconfined" {
		out = append(out, "no security module profile")
	}
	if unmasked {
		out = append(out, "unmasked /proc and /sys")
	}
	if !c.noNewPrivs && c.uid != "0" {
		out = append(out, "setuid programs can raise it")
	}
	for _, m := range s.ctr.config.GetMounts() {
		if !m.GetReadonly() && sensitive(m.GetHostPath()) {
			out = append(out, "writes to "+m.GetHostPath())
		}
	}
	return out
}

// allDevices tells whether the device rules let everything through.
func (c *container) allDevices() bool {
	lin := c.Spec.Linux
	if lin == nil || lin.Resources == nil {
		return true
	}
	for _, d := range slices.Backward(lin.Resources.Devices) {
		if d.Allow && (d.Type == "a" || d.Type == "") && d.Major == nil && d.Minor == nil {
			return true
		}
		if !d.Allow {
			return false
		}
	}
	return true
}

// sensitive are host paths by which a container can take the machine over.
func sensitive(path string) bool {
	path = filepath.Clean(path)
	if path == "/" || strings.HasSuffix(path, ".sock") {
		return true
	}
	for _, dir := range []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var", "/var/lib", "/var/run"} {
		if path == dir {
			return true
		}
	}
	return false
}

// WriteAudit prints a table for a person.
func WriteAudit(w io.Writer, all []Isolation) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tCONTAINER\tID\tUSER\tWEAKENED BY")
	for _, is := range all {
		weak := strings.Join(is.Weak, "; ")
		if weak == "" {
			weak = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%.13s\t%s\t%s\n", shown(is.Pod), shown(is.Name), shown(is.ID), shown(is.User), shown(weak))
	}
	return t.Flush()
}
