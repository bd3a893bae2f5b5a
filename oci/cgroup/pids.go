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
	for _, name := range []string{"pids.events.local", "pids.events"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == "max" {
				n, _ := strconv.ParseUint(value, 10, 64) // the kernel writes a number
				return n
			}
		}
	}
	return 0
}
