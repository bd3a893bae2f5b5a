package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// facts prints what a process has from those who started it, one fact a line. Numbers
// that are of this process alone are left out.
func facts([]string) (int, error) {
	for _, file := range []string{"status", "limits", "oom_score_adj", "loginuid", "coredump_filter", "attr/current"} {
		text, _ := os.ReadFile("/proc/self/" + file) // an empty fact where the kernel has none
		for line := range strings.Lines(string(text)) {
			if !own(line) {
				fmt.Printf("%s: %s\n", file, strings.Join(strings.Fields(line), " "))
			}
		}
	}
	umask := unix.Umask(0)
	securebits, _ := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	dumpable, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	slack, _ := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	priority, _ := unix.Getpriority(unix.PRIO_PROCESS, 0)
	policy, _, _ := unix.Syscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0)
	io, _, _ := unix.Syscall(unix.SYS_IOPRIO_GET, 1, 0, 0)
	personality, _, _ := unix.Syscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	fmt.Printf("umask %o, securebits %x, dumpable %d, timer slack %d, priority %d, policy %d, io %d, personality %x\n",
		umask, securebits, dumpable, slack, priority, policy, io, personality)
	return 0, errorsOf(printKeyring(), printFiles(), printDevices())
}

func errorsOf(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// own tells whether a line of /proc/self/status is of this process alone.
func own(line string) bool {
	for _, field := range []string{"Pid:", "PPid:", "Tgid:", "Ngid:", "NStgid:", "NSpid:", "NSpgid:", "NSsid:", "Vm", "Rss", "Threads:", "State:",
		"voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:", "HugetlbPages:", "SigQ:", "SigBlk:", "SigCgt:", "x86_"} {
		if strings.HasPrefix(line, field) {
			return true
		}
	}
	return false
}

// printKeyring tells whose session keyring it is, without its number.
func printKeyring() error {
	id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		fmt.Println("keyring:", err)
		return nil
	}
	text, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, id)
	if err != nil {
		return err
	}
	name := text[strings.LastIndexByte(text, ';')+1:]
	fmt.Printf("keyring: %d characters, empty %v\n", len(name), emptyKeyring(id))
	return nil
}

func emptyKeyring(id int) bool {
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, nil, 0)
	return err == nil && n == 0
}

// printFiles lists the open descriptors by kind.
func printFiles() error {
	names, err := filepath.Glob("/proc/self/fd/[0-9]*")
	for _, n := range names {
		target, err := os.Readlink(n)
		if err != nil {
			continue // that of the list itself
		}
		kind, _, _ := strings.Cut(target, ":[")
		fmt.Println("file", filepath.Base(n), kind)
	}
	return err
}

func printDevices() error {
	return filepath.WalkDir("/dev", func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if !strings.HasPrefix(path, "/dev/pts/") && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			fmt.Printf("device %s %o %d:%d %x\n", path, st.Mode, st.Uid, st.Gid, st.Rdev)
		}
		return nil
	})
}
