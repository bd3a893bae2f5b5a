package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/failure"
	"berth/oci/procfs"
)

// attemptPatience bounds the wait for what an ADD left running to die of SIGKILL.
const attemptPatience = 5 * time.Second

// attempt is the record of an ADD that has not ended well, or not yet: it says where
// to look for what the plugin started. Only the plugin itself is sure to die with the
// daemon; its IPAM child lives on, and what that allocates after DEL nobody frees.
type attempt struct {
	PID    int    `json:"pid"`   // of the plugin, and of its process group
	Start  uint64 `json:"start"` // when the plugin began, in clock ticks since boot
	BootID string `json:"boot_id"`
}

func (n *Network) attemptPath(pod string) string { return attemptPath(n.opt.CacheDir, pod) }

func attemptPath(cache, pod string) string {
	return filepath.Join(cache, "attempts", filepath.Base(pod))
}

// noteAttempt records a plugin that was started and waits for its input.
func noteAttempt(cache, pod string, pid int) error {
	p, err := procfs.ReadStat(pid)
	if err != nil {
		return err
	}
	boot, err := procfs.BootID()
	if err != nil {
		return err
	}
	path := attemptPath(cache, pod)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.WriteVolatile(path, attempt{PID: pid, Start: p.Start, BootID: boot})
}

// endAttempt kills all that an ADD of the pod left running, in this daemon or in one
// before it, and waits for its end.
func (n *Network) endAttempt(pod string) error {
	path := n.attemptPath(pod)
	var a attempt
	err := atomicfile.Read(path, &a)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if failure.IsShortage(err) {
		return fmt.Errorf("record of the last ADD: %w", err)
	}
	if boot, err := procfs.BootID(); err != nil || a.BootID != boot {
		a = attempt{} // the numbers mean nothing; the environment still tells
	}
	for deadline := time.Now().Add(attemptPatience); ; {
		left, err := a.left(pod)
		if err != nil {
			return fmt.Errorf("what an ADD left running: %w", err)
		}
		if len(left) == 0 {
			return forgetFile(path)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of a CNI plugin did not end within %v of SIGKILL, see /proc/PID/stack", left, attemptPatience)
		}
		for _, pid := range left {
			a.kill(pid, pod, deadline)
		}
	}
}

// left are the processes that the attempt started and that run still. With an error, such as
// want of descriptors, they are not known.
func (a attempt) left(pod string) ([]int, error) {
	all, err := runningProcesses()
	if err != nil {
		return nil, err
	}
	whole := a.hasGroup(all)
	var left []int
	for _, p := range all {
		ours := p.PID == a.PID && p.Start == a.Start || whole && p.Group == a.PID
		if !ours {
			if ours, err = isAddOf(p.PID, pod); err != nil {
				return nil, err
			}
		}
		if ours {
			left = append(left, p.PID)
		}
	}
	return left, nil
}

// attemptTicks is how long after the plugin its children may have begun, in clock
// ticks of 10 ms: ten minutes, far longer than a plugin may take.
const attemptTicks = 10 * 60 * 100

// hasGroup tells whether the process group with the plugin's number is the plugin's.
// The kernel gives the number to nobody else while the group has a member. After its
// end another program could have got it; then a process of that number began at
// another time, or the members did.
func (a attempt) hasGroup(all []procfs.Stat) bool {
	for _, p := range all {
		if p.PID == a.PID && p.Start != a.Start {
			return false
		}
		if p.Group == a.PID && (p.Start < a.Start || p.Start > a.Start+attemptTicks) {
			return false
		}
	}
	return a.PID > 1
}

// runningProcesses are all but this one and those that only wait to be waited for.
func runningProcesses() ([]procfs.Stat, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []procfs.Stat
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, err := procfs.ReadStat(pid)
		if failure.IsShortage(err) {
			return nil, err
		}
		if err == nil && !p.Ended() { // or it has ended meanwhile
			out = append(out, p)
		}
	}
	return out, nil
}

// kill ends a process that is still the attempt's once a pidfd holds it.
func (a attempt) kill(pid int, pod string, deadline time.Time) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone, or found again
	}
	defer func() { _ = unix.Close(fd) }()
	p, err := procfs.ReadStat(pid)
	if err != nil {
		return // as above
	}
	if ours, err := isAddOf(p.PID, pod); p.Group != a.PID && (!ours || err != nil) {
		return
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // gone: good
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline)/time.Millisecond)+1)
}

// maxEnviron bounds what is read of an environment, which is anybody's.
const maxEnviron = 1 << 20

// isAddOf tells whether the process was started for an ADD of the pod: plugins hand
// the variables of the protocol on to those they delegate to.
func isAddOf(pid int, pod string) (bool, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/environ")
	if failure.IsShortage(err) {
		return false, err
	}
	if err != nil {
		return false, nil //nolint:nilerr // it has ended
	}
	defer f.Close()
	env, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return false, nil //nolint:nilerr // as above
	}
	env = append([]byte{0}, env...)
	return bytes.Contains(env, []byte("\x00CNI_COMMAND=ADD\x00")) && bytes.Contains(env, []byte("\x00CNI_CONTAINERID="+pod+"\x00")), nil
}

func forgetFile(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
