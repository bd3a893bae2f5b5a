package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Stat is a part of /proc/PID/stat, see proc_pid_stat(5).
type Stat struct {
	PID   int
	State byte // field 3: R running, S sleeping, Z ended and not waited for, …
	// Parent is field 4: the process that it is a child of.
	Parent int
	Group  int    // field 5: the process group
	Start  uint64 // field 22: when it began, in clock ticks since boot
}

// ReadStat reads what the kernel tells of a process. The error wraps
// [fs.ErrNotExist] when there is none.
func ReadStat(pid int) (Stat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return parseStat(pid, data)
}

func parseStat(pid int, data []byte) (Stat, error) {
	// The name, field 2, is in parentheses and may hold anything, so the last
	// parenthesis ends it.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	const state, parent, group, start = 0, 1, 2, 19 // fields 3, 4, 5 and 22
	if len(fields) <= start {
		return Stat{}, fmt.Errorf("/proc/%d/stat has too few fields", pid)
	}
	s := Stat{PID: pid, State: fields[state][0]}
	var err error
	if s.Parent, err = strconv.Atoi(string(fields[parent])); err != nil {
		return Stat{}, fmt.Errorf("parent in /proc/%d/stat: %w", pid, err)
	}
	if s.Group, err = strconv.Atoi(string(fields[group])); err != nil {
		return Stat{}, fmt.Errorf("process group in /proc/%d/stat: %w", pid, err)
	}
	if s.Start, err = strconv.ParseUint(string(fields[start]), 10, 64); err != nil {
		return Stat{}, fmt.Errorf("start time in /proc/%d/stat: %w", pid, err)
	}
	return s, nil
}

// ErrEnded is wrapped when a process has surely ended, also when another has its PID now.
var ErrEnded = errors.New("the process has ended")

// Lives returns nil when the process with this PID began at start, field 22 of its
// /proc/PID/stat. The error wraps [ErrEnded] or tells why neither is known.
func Lives(pid int, start uint64) error {
	if pid <= 0 {
		return ErrEnded
	}
	s, err := ReadStat(pid)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) { // ESRCH: it ended between open(2) and read(2)
		return fmt.Errorf("%w: %w", ErrEnded, err)
	}
	if err == nil && s.Start != start {
		return fmt.Errorf("process %d is another one: %w", pid, ErrEnded)
	}
	return err
}

// Pidfd opens a descriptor of the process that [Lives] tells of, with flags of pidfd_open(2).
// It is never one of a process that has the PID later. The errors are those of Lives.
func Pidfd(pid int, start uint64, flags int) (int, error) {
	if pid <= 0 {
		return -1, ErrEnded
	}
	fd, err := unix.PidfdOpen(pid, flags)
	if errors.Is(err, unix.ESRCH) {
		return -1, fmt.Errorf("process %d: %w", pid, ErrEnded)
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd of process %d: %w", pid, err)
	}
	if err := Lives(pid, start); err != nil { // looked at while the descriptor holds the PID's owner
		_ = unix.Close(fd) // nothing is buffered
		return -1, err
	}
	return fd, nil
}

// Ended tells whether the process has ended, and only its parent has not waited for it.
func (s Stat) Ended() bool { return s.State == 'Z' || s.State == 'X' }

// Name is the name of a process's program, also of one that ended and was not waited for; "":
// there is no such process. The kernel keeps 15 bytes of it, see PR_SET_NAME in prctl(2).
func Name(pid int) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(data), "\n")
}

// BootID is a UUID that differs after each boot of the machine.
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot ID: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}
