package main

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// sharedMemory lists the IDs of the host's SysV segments (proc_sysvipc_shm(5))
// of the size critest makes.
func sharedMemory() map[int]bool {
	ids := map[int]bool{}
	f, err := os.Open("/proc/sysvipc/shm")
	if err != nil {
		return ids
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text()) // key shmid perms size …
		if len(fields) > 3 && fields[3] == "1048576" {
			if id, err := strconv.Atoi(fields[1]); err == nil {
				ids[id] = true
			}
		}
	}
	return ids
}
