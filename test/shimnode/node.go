package shimnode

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/program"
)

var builtShim struct {
	sync.Once
	path string
	err  error
}

// Clean removes the program that the tests have built. TestMain calls it last.
func Clean() {
	if builtShim.path != "" {
		_ = os.RemoveAll(filepath.Dir(builtShim.path)) // ours alone
	}
}

// shimBinary builds berth-shim once per run of the tests.
func shimBinary(t testing.TB) string {
	t.Helper()
	builtShim.Do(func() {
		dir, err := os.MkdirTemp("", "berth-shim-build-")
		if err != nil {
			builtShim.err = err
			return
		}
		builtShim.path = filepath.Join(dir, "berth-shim")
		builtShim.err = program.Build("cmd/berth-shim", builtShim.path)
	})
	if builtShim.err != nil {
		t.Fatal(builtShim.err)
	}
	return builtShim.path
}

// Node is a state directory with shims, and what a test has made there.
type Node struct {
	T      testing.TB
	Ctx    context.Context // ends with the test, or after two minutes
	Dir    string          // everything of the node is below it
	Rootfs string          // the root file system of all containers
	Cgroup string          // the parent of the cgroups of all containers
	Config shims.Config    // what [Node.Open] opens the shims with
	*shims.Set
	Shim *shims.Shim // the shim of the last pod
	Seen *Journal    // the events since the last Open
}

// New returns a node without shims. When the test ends nothing of the node may be left on
// the machine. The test is skipped when it does not run as root.
func New(t testing.TB) *Node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "berth-client-")
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{T: t, Dir: dir, Rootfs: filepath.Join(dir, "rootfs"), Cgroup: "/" + filepath.Base(dir)}
	var cancel context.CancelFunc
	n.Ctx, cancel = context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	n.Config = shims.Config{Binary: shimBinary(t), StateDir: filepath.Join(dir, "state"), Version: "test", LogLevel: 4}
	before := takeStock(t, dir)
	t.Cleanup(func() {
		if t.Failed() {
			n.printLogs()
		}
		n.removeCgroups()
		after := takeStock(t, dir)
		for range 1000 { // a process that ended may have to be waited for yet, on a busy machine
			if maps.Equal(before, after) {
				break
			}
			time.Sleep(10 * time.Millisecond)
			after = takeStock(t, dir)
		}
		for what := range after {
			if after[what] != before[what] {
				t.Errorf("left on the machine: %s, %d more", what, after[what]-before[what])
				logProcesses(t, dir, strings.TrimPrefix(what, "process "))
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	makeRootfs(t, n.Rootfs)
	n.Open()
	t.Cleanup(n.shut)
	return n
}

// Open connects to the shims, as a daemon does that starts.
func (n *Node) Open() {
	n.T.Helper()
	var err error
	if n.Set, err = shims.Open(n.Ctx, n.Config); err != nil {
		n.T.Fatal(err)
	}
	n.Seen = follow(n.Events())
}

func (n *Node) shut() {
	ctx := context.Background()
	dirs, _ := filepath.Glob(filepath.Join(n.Config.StateDir, "shims", "*")) // no error with this pattern
	for _, dir := range dirs {
		sh, err := n.Get(filepath.Base(dir))
		if err != nil {
			continue // gone
		}
		held, err := sh.List(ctx)
		if err != nil {
			continue // gone
		}
		for _, c := range held.Containers {
			if err := sh.Delete(ctx, c.ID); err != nil {
				n.T.Error(err)
			}
		}
		for _, p := range held.Pods {
			if err := sh.RemovePod(ctx, p.ID); err != nil && !errors.Is(err, shims.ErrGone) {
				n.T.Error(err)
			}
		}
	}
	if err := n.Shutdown(ctx); err != nil {
		n.T.Error(err)
	}
	if err := n.Close(); err != nil {
		n.T.Error(err)
	}
}

func (n *Node) printLogs() {
	logs, _ := filepath.Glob(filepath.Join(n.Config.StateDir, "shims", "*", "log"))
	for _, l := range logs {
		data, _ := os.ReadFile(l)
		n.T.Logf("%s:\n%s", l, data)
	}
}

func (n *Node) removeCgroups() {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + n.Cgroup)
	for _, root := range append(roots, "/sys/fs/cgroup"+n.Cgroup) {
		_ = unix.Rmdir(root) // the parent that libcontainer made; children are a leak
	}
}

// takeStock counts what tests could leave behind.
func takeStock(t testing.TB, dir string) map[string]int {
	t.Helper()
	stock := map[string]int{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	stock["mounts"] = strings.Count(string(mounts), dir)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		name, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		stock["file "+strings.TrimRight(name, "0123456789[]")]++
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		if isOf(dir, p) {
			stock["process "+commOf(p)]++
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(dir) + "*")
	stock["cgroups"] = len(groups)
	return stock
}

// isOf tells whether a process, a directory of procfs, is of the node in dir. A pause is
// known by its root, a container's process by its cgroup, a shim by its arguments: others
// run tests on this machine too.
func isOf(dir, proc string) bool {
	root, _ := os.Readlink(proc + "/root")
	cgroup, _ := os.ReadFile(proc + "/cgroup")
	args, _ := os.ReadFile(proc + "/cmdline")
	return strings.Contains(root+string(cgroup)+string(args), filepath.Base(dir))
}

func commOf(proc string) string {
	name, _ := os.ReadFile(proc + "/comm")
	return strings.TrimSpace(string(name))
}

// logProcesses logs where the processes of the node with a name wait.
func logProcesses(t testing.TB, dir, name string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		if !isOf(dir, p) || commOf(p) != name {
			continue
		}
		for _, file := range []string{"status", "cgroup", "cmdline"} {
			text, err := os.ReadFile(filepath.Join(p, file))
			t.Logf("%s/%s: %v\n%s", p, file, err, text)
		}
		stacks, _ := filepath.Glob(p + "/task/*/stack")
		for _, s := range stacks {
			text, err := os.ReadFile(s)
			t.Logf("%s: %v\n%s", s, err, text)
		}
		files, _ := filepath.Glob(p + "/fd/*")
		for _, f := range files {
			to, err := os.Readlink(f)
			t.Logf("%s: %s %v", f, to, err)
		}
	}
}

func makeRootfs(t testing.TB, dir string) {
	t.Helper()
	for _, d := range []string{"bin", "proc", "dev", "tmp", "etc", "sys"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs a static busybox")
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "cat", "echo", "true", "false", "kill", "yes", "head", "dd", "seq", "tail", "hostname", "id", "stty", "setsid", "ls", "grep", "pwd", "tr", "printf", "env", "usleep"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
}

// KindOfError is the kind of an error that a shim has returned, else "".
func KindOfError(err error) shimapi.Kind {
	var told *shimapi.Error
	if errors.As(err, &told) {
		return told.Kind
	}
	return ""
}

// OnDisk reports whether there is a file.
func OnDisk(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
