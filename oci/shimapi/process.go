package shimapi

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// StartTime is field 22 of /proc/PID/stat (proc_pid_stat(5)), in clock ticks since
// boot: what a [Record] holds beside a PID, so that one used again is told apart.
func StartTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("start time: %w", err)
	}
	// The name, field 2, is in parentheses and may hold anything.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	const wanted = 22 - 3
	if len(fields) <= wanted {
		return 0, fmt.Errorf("start time: /proc/%d/stat is short", pid)
	}
	return strconv.ParseUint(string(fields[wanted]), 10, 64)
}
