package explain

import (
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// confinement is what the kernel says of a process's privileges.
type confinement struct {
	uid, gid   string // effective
	groups     string
	caps       []string // effective
	bounding   []string
	ambient    []string
	noNewPrivs bool
	seccomp    string // as /proc has it: 0 none, 1 strict, 2 filter
	label      string // AppArmor's or SELinux's, "" for none
	hostUser   bool   // uid 0 inside is uid 0 outside
}

func (p process) confinement() (confinement, error) {
	st, err := p.status()
	if err != nil {
		return confinement{}, err
	}
	c := confinement{
		uid: effective(st["Uid"]), gid: effective(st["Gid"]), groups: st["Groups"],
		noNewPrivs: st["NoNewPrivs"] == "1", seccomp: st["Seccomp"],
	}
	for field, into := range map[string]*[]string{"CapEff": &c.caps, "CapBnd": &c.bounding, "CapAmb": &c.ambient} {
		mask, err := strconv.ParseUint(st[field], 16, 64)
		if err != nil {
			return c, err
		}
		*into = oci.CapabilityNames(mask)
	}
	uids, err := p.read("uid_map")
	if err != nil {
		return c, err
	}
	c.hostUser = slices.Equal(strings.Fields(uids), []string{"0", "0", "4294967295"})
	c.label, err = p.label()
	return c, err
}

// label is that of the security module; a kernel without one refuses the read.
func (p process) label() (string, error) {
	label, err := p.read("attr/current")
	if errors.Is(err, unix.EINVAL) {
		return "", nil
	}
	return strings.TrimRight(label, "\x00\n"), err
}

// effective is the second of the four IDs of proc_pid_status(5).
func effective(ids string) string {
	if f := strings.Fields(ids); len(f) == 4 {
		return f[1]
	}
	return ids
}

// securityLayer tells of privileges, as the kernel has them.
type securityLayer struct {
	subject
	*section
}

func (l securityLayer) tell() {
	if l.proc.alive() {
		l.confined()
	} else {
		l.fact("gone", "", "the rest went with the process")
	}
	record := filepath.Join(l.ctr.dir, "container.json")
	if lin := l.ctr.Spec.Linux; lin != nil {
		if !l.proc.alive() {
			l.fact("seccomp", record, "%s", filterOf(lin.Seccomp != nil))
		}
		l.fact("masked paths", record, "%d, and %d read-only", len(lin.MaskedPaths), len(lin.ReadonlyPaths))
		var paths []string
		for _, d := range lin.Devices {
			paths = append(paths, d.Path)
		}
		l.fact("devices", record, "%s", some(paths))
	}
}

func filterOf(filtered bool) string {
	if filtered {
		return "a filter"
	}
	return "none"
}

func (l securityLayer) confined() {
	c, err := l.proc.confinement()
	status := l.proc.file("status")
	if err != nil {
		l.unreadable("privileges", status, err)
		return
	}
	l.fact("user", status, "uid %s, gid %s, groups %s", c.uid, c.gid, c.groups)
	if c.hostUser {
		l.fact("uid map", l.proc.file("uid_map"), "none: its root is the machine's")
	} else {
		uids, _ := l.proc.read("uid_map")
		l.fact("uid map", l.proc.file("uid_map"), "%s", strings.Join(strings.Fields(uids), " "))
	}
	l.fact("capabilities", status, "%s", capabilityText(c.caps))
	if len(c.ambient) > 0 {
		l.fact("ambient", status, "%s", strings.Join(c.ambient, " "))
	}
	l.fact("no_new_privs", status, "%t", c.noNewPrivs)
	l.fact("seccomp", status, "%s", filterOf(c.seccomp == "2"))
	if c.label != "" {
		l.fact("label", l.proc.file("attr/current"), "%s", c.label)
	} else {
		l.fact("label", l.proc.file("attr/current"), "none: this kernel has no security module for it")
	}
}

// capabilityText names capabilities by what differs from the default set.
func capabilityText(caps []string) string {
	added, dropped := difference(caps, oci.DefaultCapabilities())
	switch {
	case len(caps) == 0:
		return "none"
	case len(added)+len(dropped) == 0:
		return "the default " + strconv.Itoa(len(caps))
	case len(added) == 0:
		return "the default ones without " + strings.Join(dropped, " ")
	case len(dropped) == 0:
		return "the default ones and " + some(added)
	}
	return strings.Join(caps, " ")
}

// difference is what is in a alone and what is in b alone.
func difference(a, b []string) (onlyA, onlyB []string) {
	without := func(x, y []string) (out []string) {
		for _, s := range x {
			if !slices.Contains(y, s) {
				out = append(out, s)
			}
		}
		return out
	}
	return without(a, b), without(b, a)
}

// some lists a few of names and counts the others.
func some(names []string) string {
	const few = 8
	if len(names) == 0 {
		return "none"
	}
	if len(names) <= few {
		return strings.Join(names, " ")
	}
	return strings.Join(names[:few], " ") + " and " + strconv.Itoa(len(names)-few) + " more"
}
