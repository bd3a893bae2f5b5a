package shimapi

import "berth/oci/procfs"

// StartTime is when a process was started, in clock ticks since boot: field 22 of
// /proc/PID/stat (proc_pid_stat(5)). A [Record] has it beside the PID, because a PID is used
// again by later processes.
func StartTime(pid int) (uint64, error) {
	s, err := procfs.ReadStat(pid)
	return s.Start, err
}
