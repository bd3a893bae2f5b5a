package pause

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func launcher(t *testing.T) *Launcher {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.Mkdir(empty, 0o555); err != nil {
		t.Fatal(err)
	}
	l, err := NewLauncher(empty)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func start(t *testing.T, c Config) *os.Process {
	t.Helper()
	p, err := launcher(t).Start(c, unrecorded)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill(); _, _ = p.Wait() })
	return p
}

func proc(t *testing.T, p *os.Process, file string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.Pid, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestGivesEverythingUp(t *testing.T) {
	p := start(t, Config{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID})
	status := proc(t, p, "status")
	for _, want := range []string{
		"Name:\tpause", "CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Threads:\t1",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q", want)
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid))
	if err != nil || len(fds) != 0 {
		t.Errorf("open files: %v, %v", fds, err)
	}
	root, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/", p.Pid))
	if err != nil || len(root) != 0 {
		t.Errorf("root holds %v, %v", root, err)
	}
	for _, ns := range []string{"net", "uts", "ipc", "pid_for_children", "mnt", "cgroup"} {
		if namespace(t, "self", ns) == namespace(t, fmt.Sprint(p.Pid), ns) {
			t.Errorf("namespace %s is the host's", ns)
		}
	}
}

// TestAttackPauseRoot looks for a way from a pause's root, working directory and
// mounts to the host's files, with a user namespace and without.
func TestAttackPauseRoot(t *testing.T) {
	for name, c := range map[string]Config{
		"host users":     {Cloneflags: unix.CLONE_NEWPID, UID: 65535, GID: 65535},
		"user namespace": {Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWUSER, UIDMaps: mapped, GIDMaps: mapped, UID: 65535, GID: 65535},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, c)
			mounts := strings.Split(strings.TrimSpace(proc(t, p, "mountinfo")), "\n")
			if len(mounts) != 1 || !strings.Contains(mounts[0], " / ro,") || !strings.Contains(mounts[0], "- tmpfs pause ro,") {
				t.Errorf("mounts: %q", mounts)
			}
			for _, way := range []string{"root", "cwd", "root/..", "root/../../../..", "cwd/..", "task/" + fmt.Sprint(p.Pid) + "/root/../.."} {
				path := fmt.Sprintf("/proc/%d/%s/", p.Pid, way)
				if found, err := os.ReadDir(path); err != nil || len(found) != 0 {
					t.Errorf("%s shows %v, %v", way, found, err)
				}
				if err := os.WriteFile(path+"x", nil, 0o600); !errors.Is(err, unix.EROFS) {
					t.Errorf("a file in %s: %v", way, err)
				}
			}
			for _, file := range []string{"root", "fd", "mem"} {
				if owner := fileOwner(t, fmt.Sprintf("/proc/%d/%s", p.Pid, file)); owner == 65535 {
					t.Errorf("%s belongs to the process's user: it is dumpable", file)
				}
			}
		})
	}
}

var mapped = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}

func fileOwner(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid
}

func TestBecomesUser(t *testing.T) {
	groups := make([]uint32, MaxGroups)
	for i := range groups {
		groups[i] = uint32(5000 + i)
	}
	p := start(t, Config{Cloneflags: unix.CLONE_NEWUTS, UID: 4294967294, GID: 42, Groups: groups})
	status := proc(t, p, "status")
	for _, want := range []string{
		"Uid:\t4294967294\t4294967294\t4294967294\t4294967294\n", "Gid:\t42\t42\t42\t42\n", "\nGroups:\t5000 5001 5002 ", " 6023 \n",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("%q is not in %s", want, status)
		}
	}
	bare := start(t, Config{Cloneflags: unix.CLONE_NEWUTS, UID: 1, GID: 1})
	if !strings.Contains(proc(t, bare, "status"), "\nGroups:\t \n") {
		t.Error("it keeps groups of its parent")
	}
}

// TestStageIsNotTheMainThread wants that /proc/self shows the host's mounts while
// a launcher lives, and that they are as before.
func TestStageIsNotTheMainThread(t *testing.T) {
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		launcher(t)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("mounts of the process were\n%s\nand are\n%s, %v", before, after, err)
	}
}

func namespace(t *testing.T, pid, name string) string {
	t.Helper()
	target, err := os.Readlink("/proc/" + pid + "/ns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestSetsUpNamespaces(t *testing.T) {
	for _, user := range []bool{false, true} {
		c := Config{
			Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
			Hostname:   "a-pod",
			Loopback:   true,
			Sysctls:    map[string]string{"net/ipv4/ip_unprivileged_port_start": "7", "kernel/shm_rmid_forced": "1"},
		}
		if user {
			c.Cloneflags |= unix.CLONE_NEWUSER
			c.UIDMaps, c.GIDMaps = mapped, mapped
		}
		t.Run(fmt.Sprintf("user=%v", user), func(t *testing.T) {
			p := start(t, c)
			if uid := strings.Fields(proc(t, p, "status")[strings.Index(proc(t, p, "status"), "Uid:"):])[1]; (uid != "0") != user {
				t.Errorf("uid on the host is %s", uid)
			}
			got := inNamespaces(t, p.Pid, "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; ip -o link show lo")
			if !strings.HasPrefix(got, "a-pod\n7\n1\n") || !strings.Contains(got, "LOOPBACK,UP") {
				t.Errorf("inside: %s", got)
			}
		})
	}
}

// inNamespaces runs a script in the network, UTS and IPC namespaces of pid.
func inNamespaces(t *testing.T, pid int, script string) string {
	t.Helper()
	out, err := command("/bin/busybox", "nsenter", "-t", fmt.Sprint(pid), "-n", "-u", "-i", "/bin/busybox", "sh", "-c", script)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return out
}

func command(argv ...string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Files: []*os.File{nil, w, w}})
	_ = w.Close()
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	_, err = out.ReadFrom(r)
	_ = r.Close()
	state, werr := p.Wait()
	if err == nil && werr == nil && !state.Success() {
		err = fmt.Errorf("%v", state)
	}
	return out.String(), err
}

func TestEndsOnSignals(t *testing.T) {
	for _, flags := range []uintptr{unix.CLONE_NEWUTS, unix.CLONE_NEWPID} {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
			p, err := launcher(t).Start(Config{Cloneflags: flags}, unrecorded)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Signal(sig); err != nil {
				t.Fatal(err)
			}
			state, err := p.Wait()
			if err != nil || (sig != syscall.SIGKILL && state.ExitCode() != 0) {
				t.Errorf("flags %x, %v: %v, %v", flags, sig, state, err)
			}
		}
	}
}

// TestReapsOrphans puts a process that leaves an orphan under pause as PID 1.
func TestReapsOrphans(t *testing.T) {
	p := start(t, Config{Cloneflags: unix.CLONE_NEWPID})
	// The orphan's end is seen by a second process that waits for its pipe.
	out, err := command("/bin/busybox", "nsenter", "-t", fmt.Sprint(p.Pid), "-p", "/bin/busybox", "sh", "-c",
		"(/bin/busybox sh -c 'exit 3' & ) ; (/bin/busybox true &); echo gone")
	if err != nil || out != "gone\n" {
		t.Fatalf("%q, %v", out, err)
	}
	unixChildren := fmt.Sprintf("/proc/%d/task/%d/children", p.Pid, p.Pid)
	for range 1000 {
		children, err := os.ReadFile(unixChildren)
		if err != nil {
			t.Fatal(err)
		}
		if len(bytes.TrimSpace(children)) == 0 {
			return
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
	}
	t.Error("pause left zombies")
}

func TestErrorsNameTheStep(t *testing.T) {
	l := launcher(t)
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"a sysctl: net/none=1: no such": {Cloneflags: unix.CLONE_NEWNET, Sysctls: map[string]string{"net/none": "1"}},
		"port_start=x: invalid arg": {Cloneflags: unix.CLONE_NEWNET, Loopback: true, Sysctls: map[string]string{
			"net/ipv4/ip_unprivileged_port_start": "x", "net/ipv4/ip_forward": "1",
		}},
		"read its arguments: file nam": {Sysctls: map[string]string{strings.Repeat("x", 600): "1"}},
		"become its user and groups: inv": {
			Cloneflags: unix.CLONE_NEWUSER, UIDMaps: mapped, GIDMaps: mapped, UID: 65536,
		},
		"read its arguments: arg":        {Groups: make([]uint32, MaxGroups+1)},
		"change to its AppArmor profile": {AppArmor: "berth-no-such-profile"},
		"start pause: ":                  {Cloneflags: unix.CLONE_NEWUSER, UIDMaps: []syscall.SysProcIDMap{{ContainerID: 5, HostID: 5, Size: 1}}},
	} {
		if p, err := l.Start(c, unrecorded); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v, %v", want, p, err)
		}
	}
	after, err := os.ReadDir("/proc/self/fd")
	if err != nil || len(after) != len(before) {
		t.Errorf("files before %d, after %d, %v", len(before), len(after), err)
	}
}

func BenchmarkStart(b *testing.B) {
	empty := b.TempDir()
	l, err := NewLauncher(empty)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for b.Loop() {
		p, err := l.Start(Config{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, Loopback: true}, unrecorded)
		if err != nil {
			b.Fatal(err)
		}
		_ = p.Kill()
		_, _ = p.Wait()
	}
}

// unrecorded is for processes that nobody has to find again.
func unrecorded(int) error { return nil }

// TestPauseThatIsNotRecorded: a process that its starter did not write down does not stay.
func TestPauseThatIsNotRecorded(t *testing.T) {
	var pid int
	_, err := launcher(t).Start(Config{Cloneflags: unix.CLONE_NEWNET}, func(p int) error {
		pid = p
		return errors.New("the disk is full")
	})
	if err == nil || !strings.Contains(err.Error(), "record pause: the disk is full") {
		t.Errorf("the error is %v", err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}
