package explain

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"berth/oci/procfs"
)

// process is a living one that is known to be the one recorded; the zero value
// is one that is gone.
type process struct{ pid int }

// livingProcess is pid while its start time is the recorded one.
func livingProcess(pid int, start uint64) process {
	if procfs.Lives(pid, start) != nil {
		return process{}
	}
	return process{pid: pid}
}

func (p process) alive() bool { return p.pid != 0 }

// file is the path of a file of the process below /proc.
func (p process) file(name string) string {
	return filepath.Join("/proc", strconv.Itoa(p.pid), name)
}

func (p process) read(name string) (string, error) {
	b, err := readKernel(p.file(name))
	return strings.TrimSpace(string(b)), err
}

// status is /proc/PID/status, its values by their names.
func (p process) status() (map[string]string, error) {
	text, err := p.read("status")
	if err != nil {
		return nil, err
	}
	out := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		out[name] = strings.TrimSpace(value)
	}
	return out, nil
}

// namespace is the inode that identifies a namespace of the process.
func (p process) namespace(kind string) (string, error) {
	link, err := os.Readlink(p.file("ns/" + kind))
	if err != nil {
		return "", err
	}
	_, inode, ok := strings.Cut(strings.TrimSuffix(link, "]"), "[")
	if !ok {
		return "", fmt.Errorf("unexpected form %q", link)
	}
	return inode, nil
}

// manyTasks is how many threads of a process, and then how many of its children, are
// looked at: a workload may have as many as its pids limit allows.
const manyTasks = 4096

// children are the PIDs of the process's children (CONFIG_PROC_CHILDREN), of those
// that its first threads made when there are too many.
func (p process) children() ([]int, error) {
	dir, err := os.Open(p.file("task"))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	tasks, err := dir.Readdirnames(manyTasks)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, t := range tasks {
		text, err := p.read("task/" + t + "/children")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(text) {
			if pid, err := strconv.Atoi(field); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out, nil
}

// mounts are those that the process sees at the places wanted.
func (p process) mounts(wanted func(point string) bool) ([]*mountinfo.Info, error) {
	f, err := openFile(p.file(""), "mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mountinfo.GetMountsFromReader(io.LimitReader(f, tableBytes), func(m *mountinfo.Info) (skip, stop bool) {
		return !wanted(m.Mountpoint), false
	})
}

// bootID identifies this boot, "" when it can't be read.
func bootID() string {
	id, _ := procfs.BootID() // an ID that can't be read is taken for another boot's
	return id
}
