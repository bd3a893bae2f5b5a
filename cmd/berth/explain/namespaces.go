package explain

import (
	"cmp"
	"os"
	"path/filepath"
)

// kinds are the namespaces of namespaces(7) that differ between containers.
var kinds = []string{"net", "ipc", "uts", "pid", "mnt", "user", "cgroup"}

// namespaceLayer tells of each namespace whose it is, by its inode.
type namespaceLayer struct {
	subject
	*section
}

func (l namespaceLayer) tell() {
	if !l.proc.alive() {
		l.fact("gone", "", "they went with the process")
		return
	}
	for _, kind := range kinds {
		file := l.proc.file("ns/" + kind)
		own, err := l.proc.namespace(kind)
		if err != nil {
			l.unreadable(kind, file, err)
			continue
		}
		l.fact(kind, file, "%s, inode %s", l.owner(kind, own), own)
	}
	if l.pause.alive() {
		l.fact("kept by", filepath.Join(l.pod.dir, "pod.json"), "pause, pid %d", l.pause.pid)
	}
}

// hosts is the owner of what is shared with the machine.
const hosts = "the host's"

// ownNamespace is the operator's: that of PID 1 can't be read everywhere.
func ownNamespace(kind string) (string, error) { return process{pid: os.Getpid()}.namespace(kind) }

// owner compares with the machine's namespaces, then with those that pause keeps.
func (s subject) owner(kind, inode string) string {
	if host, err := ownNamespace(kind); err == nil && host == inode {
		return hosts
	}
	if s.pause.alive() {
		if pods, err := s.pause.namespace(kind); err == nil && pods == inode {
			return "the pod's"
		}
	}
	for _, other := range s.siblings() {
		if theirs, err := other.proc.namespace(kind); err == nil && theirs == inode {
			return "that of container " + cmp.Or(other.name, "?")
		}
	}
	return "its own"
}

type sibling struct {
	name string
	proc process
}

// siblings are the pod's other containers; one may be the target of a debug
// container's PID namespace.
func (s subject) siblings() []sibling {
	var out []sibling
	for _, c := range s.pod.containers {
		if c == s.ctr || c.ended() {
			continue
		}
		if p := livingProcess(c.fact.PID, c.fact.StartTime); p.alive() {
			out = append(out, sibling{c.name(), p})
		}
	}
	return out
}
