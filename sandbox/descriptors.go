package sandbox

import (
	"os"
	"path/filepath"
	"strings"
)

// maxDescriptors is how many open files of a container are looked at: a program may
// open millions, each costs a system call, and all containers are counted in one call.
const maxDescriptors = 8192

// descriptors counts the processes in the cgroup and below it, and the files and
// sockets that they have open; one that several have counts for each, as cAdvisor has it.
func (g cgroupReader) descriptors() (files, sockets, processes uint64) {
	left := maxDescriptors
	for _, dir := range g.tree() {
		eachLine(filepath.Join(dir, "cgroup.procs"), func(pid string) bool {
			processes++
			if left > 0 {
				f, s, looked := openFiles(filepath.Join("/proc", pid, "fd"), left)
				files, sockets, left = files+f, sockets+s, left-looked
			}
			return true
		})
	}
	return files, sockets, processes
}

// openFiles counts the descriptors in a directory of /proc, looking at most at so many.
// Since Linux 6.2 the directory's size is the number of all.
func openFiles(dir string, most int) (files, sockets uint64, looked int) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, 0, 1 // it ended meanwhile
	}
	defer d.Close()
	names, _ := d.Readdirnames(most)
	for _, name := range names {
		if to, _ := os.Readlink(filepath.Join(dir, name)); strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	files = uint64(len(names))
	if st, err := d.Stat(); err == nil && st.Size() > int64(len(names)) {
		files = uint64(st.Size()) //nolint:gosec // a size
	}
	return files, sockets, len(names) + 1
}
