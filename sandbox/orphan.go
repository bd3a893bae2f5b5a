package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

// killPID kills a process that is told from a later one of the same number by
// its start time (field 22 of /proc/PID/stat), and waits for its end. 0 or a
// process that is gone is fine.
func killPID(pid int, start uint64) error {
	if pid <= 1 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // gone
	}
	defer unix.Close(fd)
	if now, err := shimapi.StartTime(pid); err != nil || now != start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int((10*time.Second)/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for process %d: %w", pid, err)
	}
	return nil
}

// killPatience bounds the wait for the processes of a cgroup to die of SIGKILL.
const killPatience = 10 * time.Second

// killCgroup kills every process of a cgroup and of those below it, and waits for
// their end: what comes after unmounts their files and removes the cgroup. The
// caller has no shim to ask, and no pid it could trust.
func killCgroup(paths map[string]string) error {
	dir := paths[""]
	for _, p := range paths { // without v2 each hierarchy lists the same processes
		if dir == "" {
			dir = p
		}
	}
	if dir == "" {
		return nil
	}
	deadline := time.Now().Add(killPatience)
	for time.Now().Before(deadline) {
		pids := cgroupPIDs(dir)
		if len(pids) == 0 {
			return nil
		}
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // v2, Linux 5.14; below does without
		for _, pid := range pids {
			killMember(dir, pid, deadline)
		}
	}
	return fmt.Errorf("processes %v of cgroup %s did not end within %v of SIGKILL, see /proc/PID/stack: %w", cgroupPIDs(dir), dir, killPatience, ErrTimeout)
}

// removeEmptied removes the cgroups of processes that have ended. The kernel calls
// them busy until somebody has waited for the last of these; nothing tells when.
func removeEmptied(paths map[string]string) error {
	deadline := time.Now().Add(killPatience)
	var errs []error
	for _, dir := range paths {
		err := removeCgroupTree(dir)
		for errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(2 * time.Millisecond)
			err = removeCgroupTree(dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// killMember kills a process if it is in the cgroup still once it is held by a
// pidfd, which no later process of that number can be mistaken for.
func killMember(dir string, pid int, deadline time.Time) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone
	}
	defer func() { _ = unix.Close(fd) }()
	if !slices.Contains(cgroupPIDs(dir), pid) {
		return
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // gone: good
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline)/time.Millisecond)+1)
}

// cgroupPIDs lists the processes of a cgroup and of those below it.
func cgroupPIDs(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// refreshFact takes in the shim's last word on a container from its file, for
// when no event will come.
func (t *teardown) refreshFact(c *Container) {
	var r shimapi.Record
	if err := atomicfile.Read(t.paths.containerFile(c.pod.id, c.id, shimapi.RecordName), &r); err == nil {
		c.learn(r)
	}
}
