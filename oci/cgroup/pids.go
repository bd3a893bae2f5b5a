package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// RefusedForks counts the forks in the cgroup at dir that a limit of PIDs has refused; 0 where
// nothing is counted. On v1 they are those of the cgroup's own processes, whatever limit they met,
// and since Linux 6.11 on v2 those that met this cgroup's limit; there the file without "local"
// counts for all limits below it as well. See Documentation/admin-guide/cgroup-v2.rst, "PID".
func RefusedForks(dir string) uint64 {
	n, ok := Counter(filepath.Join(dir, "pids.events.local"), "max")
	if !ok {
		n, _ = Counter(filepath.Join(dir, "pids.events"), "max")
	}
	return n
}

// Counter reads the number of a key from a file of lines "key number", such as memory.events;
// ok=false: there is no such file or key.
func Counter(path, key string) (n uint64, ok bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == key {
			n, err := strconv.ParseUint(value, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
