package shimapi

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// StartTime is when a process was started, in clock ticks since boot: field 22 of
// /proc/PID/stat (proc_pid_stat(5)). A [Record] has it beside the PID, because a PID is used
// again by later processes.
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
