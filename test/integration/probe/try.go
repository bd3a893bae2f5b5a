package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempts are system calls that attacks begin with, each with arguments that
// change nothing where the call is allowed: the kernel then finds them wrong, or
// there is nothing to do.
var attempts = map[string]func() error{
	"acct":              func() error { return raw(unix.SYS_ACCT, path("/no/such/file")) },
	"add_key":           func() error { return raw(unix.SYS_ADD_KEY, path("user"), path("berth-test"), path("x"), 1, session) },
	"af_alg":            socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
	"af_vsock":          socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	"bpf":               func() error { return raw(unix.SYS_BPF, unix.BPF_PROG_LOAD, 0, 0) },
	"chroot":            func() error { return raw(unix.SYS_CHROOT, path("/")) },
	"clone-user":        func() error { return raw(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_THREAD) },
	"clone3":            func() error { return raw(unix.SYS_CLONE3, 0, 0) },
	"delete_module":     func() error { return raw(unix.SYS_DELETE_MODULE, path("berth_no_such"), unix.O_NONBLOCK) },
	"fanotify_init":     func() error { return raw(unix.SYS_FANOTIFY_INIT, 0, 0) },
	"finit_module":      func() error { return raw(unix.SYS_FINIT_MODULE, bad, path(""), 0) },
	"fsconfig":          func() error { return raw(unix.SYS_FSCONFIG, bad, unix.FSCONFIG_SET_FLAG, path("x"), 0, 0) },
	"fsmount":           func() error { return raw(unix.SYS_FSMOUNT, bad, 0, 0) },
	"fsopen":            func() error { return raw(unix.SYS_FSOPEN, path("tmpfs"), 0) },
	"init_module":       func() error { return raw(unix.SYS_INIT_MODULE, path(""), 0, path("")) },
	"io_uring_setup":    func() error { return raw(unix.SYS_IO_URING_SETUP, 1, 0) },
	"kexec_load":        func() error { return raw(unix.SYS_KEXEC_LOAD, 0, 1<<20, 0, 0) },
	"keyctl":            func() error { return raw(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, session, 0) },
	"mknod-disk":        func() error { return unix.Mknod("/tmp/probe-disk", unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))) },
	"mount":             func() error { return unix.Mount("none", "/no/such/file", "tmpfs", 0, "") },
	"mount_setattr":     func() error { return raw(unix.SYS_MOUNT_SETATTR, bad, path(""), unix.AT_EMPTY_PATH, 0, 0) },
	"move_mount":        func() error { return raw(unix.SYS_MOVE_MOUNT, bad, path(""), bad, path(""), 0) },
	"open_by_handle_at": openByHandle,
	"open_tree":         func() error { return raw(unix.SYS_OPEN_TREE, bad, path("/"), unix.OPEN_TREE_CLONE) },
	"packet-socket":     socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
	"perf_event_open":   func() error { return raw(unix.SYS_PERF_EVENT_OPEN, 0, 0, bad, bad, 0) },
	"personality":       func() error { return raw(unix.SYS_PERSONALITY, 0x0400000) }, // READ_IMPLIES_EXEC
	"pivot_root":        func() error { return raw(unix.SYS_PIVOT_ROOT, path("/no/such/file"), path("/no/such/file")) },
	"quotactl":          func() error { return raw(unix.SYS_QUOTACTL, 0x800001<<8, path("/no/such/file"), 0, 0) },
	"raw-socket":        socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
	"reboot":            func() error { return raw(unix.SYS_REBOOT, 1, 2, 3, 0) },
	"request_key":       func() error { return raw(unix.SYS_REQUEST_KEY, path("user"), path("berth-test"), 0, session) },
	"setdomainname":     func() error { return raw(unix.SYS_SETDOMAINNAME, path("x"), 1<<20) },
	"setns":             func() error { return raw(unix.SYS_SETNS, bad, unix.CLONE_NEWNS) },
	"settimeofday":      func() error { return raw(unix.SYS_SETTIMEOFDAY, 0, 0) },
	"swapoff":           func() error { return raw(unix.SYS_SWAPOFF, path("/no/such/file")) },
	"swapon":            func() error { return raw(unix.SYS_SWAPON, path("/no/such/file"), 0) },
	"syslog":            func() error { return raw(unix.SYS_SYSLOG, 10, 0, 0) }, // the size of the kernel's log
	"umount":            func() error { return unix.Unmount("/no/such/file", 0) },
	"unshare-cgroup":    func() error { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP) },
	"unshare-mount":     func() error { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWNS) },
	"unshare-net":       func() error { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWNET) },
	"unshare-user":      func() error { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER) },
	"userfaultfd":       func() error { return raw(unix.SYS_USERFAULTFD, 0) },
	"vhangup":           func() error { return raw(unix.SYS_VHANGUP) },
}

const (
	bad     = ^uintptr(0)     // no descriptor, no process
	session = ^uintptr(0) - 2 // KEY_SPEC_SESSION_KEYRING
)

func raw(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// kept are the strings that the kernel was given the addresses of.
var kept [][]byte

func path(s string) uintptr {
	b := append([]byte(s), 0)
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

func socket(family, kind, protocol int) func() error {
	return func() error {
		_, err := unix.Socket(family, kind, protocol)
		return err
	}
}

// openByHandle asks for the root of the filesystem that / is on, as the Shocker
// attack of 2014 did to read what the container was never given.
func openByHandle() error {
	f, err := os.Open("/etc/hosts") // a file that the runtime mounts from the host
	if err != nil {
		return err
	}
	_, err = unix.OpenByHandleAt(int(f.Fd()), unix.NewFileHandle(1, []byte{2, 0, 0, 0, 0, 0, 0, 0}), unix.O_RDONLY)
	return err
}

// try makes the calls and prints for each a line: its name and what the kernel said.
func try(args []string) (int, error) {
	for _, name := range args {
		attempt, ok := attempts[name]
		if !ok {
			return 0, fmt.Errorf("no attempt is called %s", name)
		}
		said := "allowed"
		var errno unix.Errno
		if err := attempt(); errors.As(err, &errno) {
			said = unix.ErrnoName(errno)
		} else if err != nil {
			said = err.Error()
		}
		fmt.Println(name, said)
	}
	return 0, nil
}

// hunt looks for MILLISECONDS at every process for programs other than those
// whose names it is given, and tries to write to them, through a descriptor as
// CVE-2019-5736 did. It ends with a line of how many programs of others it saw.
func hunt(args []string) (int, error) {
	ms, err := strconv.Atoi(args[0])
	if err != nil {
		return 0, err
	}
	seen := map[string]bool{}
	fmt.Println("hunting")
	for end := time.Now().Add(time.Duration(ms) * time.Millisecond); time.Now().Before(end); {
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, d := range dirs {
			exe, err := os.Readlink(d + "/exe")
			if err != nil || contains(args[1:], exe) {
				continue
			}
			seen[exe] = true
			overwrite(d+"/exe", exe)
		}
	}
	fmt.Println("seen", len(seen), strings.Join(sortedKeys(seen), " "))
	return 0, nil
}

func overwrite(exe, name string) {
	fd, err := unix.Open(exe, unix.O_PATH, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for range 200 { // until the program is not executed any more
		w, err := unix.Open(fmt.Sprint("/proc/self/fd/", fd), unix.O_WRONLY, 0)
		if err == nil {
			fmt.Println("OPENED", name)
			unix.Close(w)
			return
		}
		if !errors.Is(err, unix.ETXTBSY) {
			return
		}
	}
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// connect tries the abstract socket NAME.
func connect(args []string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: "@" + args[0]}); err != nil {
		return 0, err
	}
	fmt.Println("connected")
	return 0, nil
}

// attachTo tries to trace the process PID.
func attachTo(args []string) (int, error) {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return 0, err
	}
	if err := unix.PtraceAttach(pid); err != nil {
		return 0, err
	}
	fmt.Println("attached")
	return 0, unix.PtraceDetach(pid)
}

// pushBack tries to type into its terminal, for whatever reads it next.
func pushBack([]string) (int, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	c := byte('x')
	return 0, raw(unix.SYS_IOCTL, tty.Fd(), unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
}

// firewall tries to list the packet filter's tables as a beginning of changing
// them (what the nf_tables faults begin with).
func firewall([]string) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// One message of NFT_MSG_NEWTABLE outside a batch: EINVAL where it may be sent.
	message := []byte{20, 0, 0, 0, 0, unix.NFNL_SUBSYS_NFTABLES, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, unix.AF_INET, 0, 0, 0}
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || n < 20 {
		return 0, fmt.Errorf("an answer of %d bytes: %w", n, err)
	}
	if errno := -*(*int32)(unsafe.Pointer(&answer[16])); errno != 0 {
		return 0, unix.Errno(errno)
	}
	return 0, nil
}
