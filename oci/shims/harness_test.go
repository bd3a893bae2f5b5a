package shims

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/test/program"
)

var builtShim struct {
	sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if builtShim.path != "" {
		_ = os.RemoveAll(filepath.Dir(builtShim.path)) // ours alone
	}
	os.Exit(code)
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

// shimNode is a state directory with shims, and what a test made on it.
type shimNode struct {
	t      testing.TB
	ctx    context.Context
	dir    string
	rootfs string
	cgroup string
	config Config
	*Set
	shim *Shim
	seen *journal
}

// newShimNode starts with no shim; at its end nothing of it may be left on the machine.
func newShimNode(t testing.TB) *shimNode {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "berth-client-")
	if err != nil {
		t.Fatal(err)
	}
	n := &shimNode{t: t, dir: dir, rootfs: filepath.Join(dir, "rootfs"), cgroup: "/" + filepath.Base(dir)}
	var cancel context.CancelFunc
	n.ctx, cancel = context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	n.config = Config{Binary: shimBinary(t), StateDir: filepath.Join(dir, "state"), Version: "test", LogLevel: 4}
	before := takeStock(t, dir)
	t.Cleanup(func() {
		if t.Failed() {
			n.printLogs()
		}
		n.removeCgroups()
		after := takeStock(t, dir)
		for range 100 { // a process that ended may have to be waited for yet
			if maps.Equal(before, after) {
				break
			}
			time.Sleep(10 * time.Millisecond)
			after = takeStock(t, dir)
		}
		for what := range after {
			if after[what] != before[what] {
				t.Errorf("left on the machine: %s, %d more", what, after[what]-before[what])
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	makeRootfs(t, n.rootfs)
	n.open()
	t.Cleanup(n.shut)
	return n
}

func (n *shimNode) open() {
	n.t.Helper()
	var err error
	if n.Set, err = Open(n.ctx, n.config); err != nil {
		n.t.Fatal(err)
	}
	n.seen = follow(n.Events())
}

func (n *shimNode) shut() {
	ctx := context.Background()
	n.Set.mu.Lock()
	all := slices.Collect(maps.Values(n.shims))
	n.Set.mu.Unlock()
	for _, sh := range all {
		held, err := sh.List(ctx)
		if err != nil {
			continue // gone
		}
		for _, c := range held.Containers {
			if err := sh.Delete(ctx, c.ID); err != nil {
				n.t.Error(err)
			}
		}
		for _, p := range held.Pods {
			if err := sh.RemovePod(ctx, p.ID); err != nil && !errors.Is(err, ErrGone) {
				n.t.Error(err)
			}
		}
	}
	if err := n.Shutdown(ctx); err != nil {
		n.t.Error(err)
	}
	if err := n.Close(); err != nil {
		n.t.Error(err)
	}
}

func (n *shimNode) printLogs() {
	logs, _ := filepath.Glob(filepath.Join(n.config.StateDir, "shims", "*", "log"))
	for _, l := range logs {
		data, _ := os.ReadFile(l)
		n.t.Logf("%s:\n%s", l, data)
	}
}

func (n *shimNode) removeCgroups() {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup)
	for _, root := range append(roots, "/sys/fs/cgroup"+n.cgroup) {
		_ = unix.Rmdir(root) // the parent that libcontainer made; children are a leak
	}
}

// stock counts what tests could leave behind.
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
		// A pause is known by its root, a container's process by its cgroup, a
		// shim by its arguments: others run tests on this machine too.
		root, _ := os.Readlink(p + "/root")
		cgroup, _ := os.ReadFile(p + "/cgroup")
		args, _ := os.ReadFile(p + "/cmdline")
		if strings.Contains(root+string(cgroup)+string(args), filepath.Base(dir)) {
			name, _ := os.ReadFile(p + "/comm")
			stock["process "+strings.TrimSpace(string(name))]++
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(dir) + "*")
	stock["cgroups"] = len(groups)
	return stock
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

// pod starts a pause, on a new shim or one with room.
func (n *shimNode) pod(alter ...func(*shimapi.RunPodRequest)) string {
	n.t.Helper()
	sh, err := n.ForNewPod(n.ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	n.shim = sh
	id := newID()
	r := &shimapi.RunPodRequest{
		ID: id, Dir: n.mkdir("pods", id), Hostname: "test-pod", NewNet: true, NewIPC: true, NewUTS: true,
		NetNSPath: filepath.Join(n.dir, "state", "pods", id, "net"),
	}
	for _, a := range alter {
		a(r)
	}
	p, err := sh.RunPod(n.ctx, r)
	if err != nil {
		n.t.Fatal(err)
	}
	if p.PID == 0 || p.StartTime == 0 {
		n.t.Errorf("pause is %+v", p)
	}
	return id
}

func newID() string {
	var b [32]byte
	f, err := os.Open("/dev/urandom")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	_, _ = io.ReadFull(f, b[:])
	return fmt.Sprintf("%x", b)
}

func (n *shimNode) mkdir(parts ...string) string {
	n.t.Helper()
	dir := filepath.Join(append([]string{n.dir}, parts...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	return dir
}

func (n *shimNode) podRecord(id string) shimapi.Record {
	n.t.Helper()
	held, err := n.shim.List(n.ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, r := range held.Pods {
		if r.ID == id {
			return r
		}
	}
	n.t.Fatalf("no pod %s", id)
	return shimapi.Record{}
}

// request is a container of the pod that runs a script; alter changes it.
func (n *shimNode) request(pod, script string, alter ...func(*shimapi.CreateRequest, *specs.Spec)) *shimapi.CreateRequest {
	n.t.Helper()
	id := newID()
	pause := n.podRecord(pod).PID
	caps := []string{"CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"}
	spec := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: n.rootfs},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin", "HOME=/"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: n.cgroup + "/" + id,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", pause)},
				{Type: specs.IPCNamespace, Path: fmt.Sprintf("/proc/%d/ns/ipc", pause)},
				{Type: specs.UTSNamespace, Path: fmt.Sprintf("/proc/%d/ns/uts", pause)},
			},
		},
	}
	r := &shimapi.CreateRequest{
		Pod: pod, ID: id, Dir: n.mkdir("pods", pod, "containers", id), LogPath: filepath.Join(n.dir, "logs", id, "0.log"),
	}
	for _, a := range alter {
		a(r, spec)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		n.t.Fatal(err)
	}
	r.Spec = data
	return r
}

// run creates and starts a container.
func (n *shimNode) run(pod, script string, alter ...func(*shimapi.CreateRequest, *specs.Spec)) *shimapi.CreateRequest {
	n.t.Helper()
	r := n.request(pod, script, alter...)
	if _, err := n.shim.Create(n.ctx, r); err != nil {
		n.t.Fatal(err)
	}
	if err := n.shim.Start(n.ctx, r.ID); err != nil {
		n.t.Fatal(err)
	}
	return r
}

// exit waits for the end of a container, which must be on disk by then.
func (n *shimNode) exit(r *shimapi.CreateRequest) shimapi.Record {
	n.t.Helper()
	e := n.seen.await(n.t, shimapi.EventExited, r.ID)
	var stored shimapi.Record
	if err := atomicfile.Read(filepath.Join(r.Dir, "status.json"), &stored); err != nil {
		n.t.Error(err)
	}
	if stored.Status != shimapi.StatusStopped || stored.ExitCode != e.Record.ExitCode || !stored.FinishedAt.Equal(e.Record.FinishedAt) {
		n.t.Errorf("on disk %+v, told %+v", stored, e.Record)
	}
	return e.Record
}

// output is what the container printed, from its log, with the tags taken off.
func (n *shimNode) output(r *shimapi.CreateRequest) string {
	n.t.Helper()
	return readLog(n.t, r.LogPath)
}

func readLog(t testing.TB, paths ...string) string {
	t.Helper()
	var out strings.Builder
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			parts := bytes.SplitN(line, []byte(" "), 4)
			if len(parts) != 4 || !bytes.HasSuffix(line, []byte("\n")) {
				t.Fatalf("no CRI log line: %q", line)
			}
			if _, err := time.Parse(time.RFC3339Nano, string(parts[0])); err != nil {
				t.Fatal(err)
			}
			text := parts[3]
			switch string(parts[2]) {
			case "P":
				text = text[:len(text)-1]
			case "F":
			default:
				t.Fatalf("no tag: %q", line)
			}
			if len(text) > 16<<10+1 {
				t.Fatalf("line of %d bytes", len(text))
			}
			out.Write(text)
		}
	}
	return out.String()
}

// exec runs a command in a container and returns its output and end.
func (n *shimNode) exec(r *shimapi.CreateRequest, timeout time.Duration, args ...string) (string, shimapi.ExitStatus, error) {
	n.t.Helper()
	return n.execAs(r, &shimapi.ExecRequest{ExecID: newID()[:16], Timeout: timeout, Process: &specs.Process{Args: args}})
}

func (n *shimNode) execAs(r *shimapi.CreateRequest, x *shimapi.ExecRequest) (string, shimapi.ExitStatus, error) {
	n.t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		n.t.Fatal(err)
	}
	defer null.Close()
	out, w, err := os.Pipe()
	if err != nil {
		n.t.Fatal(err)
	}
	defer out.Close()
	x.ID = r.ID
	if x.Process.Env == nil {
		x.Process.Env = []string{"PATH=/bin"}
	}
	session, err := n.shim.Exec(n.ctx, x, []*os.File{null, w, w})
	_ = w.Close()
	if err != nil {
		return "", shimapi.ExitStatus{}, err
	}
	defer session.Close()
	text := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(out)
		text <- string(data)
	}()
	status, err := session.Wait(n.ctx)
	_ = out.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	return <-text, status, err
}

// journal keeps the events and lets tests wait for one.
type journal struct {
	mu     sync.Mutex
	events []Event
	more   chan struct{} // closed and replaced at each event
}

func follow(events <-chan Event) *journal {
	j := &journal{more: make(chan struct{})}
	go func() {
		for e := range events {
			j.mu.Lock()
			j.events = append(j.events, e)
			close(j.more)
			j.more = make(chan struct{})
			j.mu.Unlock()
		}
	}()
	return j
}

func (j *journal) await(t testing.TB, kind, id string) Event {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		j.mu.Lock()
		more, events := j.more, j.events
		j.mu.Unlock()
		for _, e := range events {
			if e.Kind == kind && (e.Record.ID == id || e.ShimID == id) {
				return e
			}
		}
		select {
		case <-more:
		case <-timeout:
			var told []string
			for _, e := range events {
				told = append(told, fmt.Sprintf("%s %s %.6s %d", e.ShimID, e.Kind, e.Record.ID, e.Record.ExitCode))
			}
			t.Errorf("no event %s of %s among %q", kind, id, told)
			t.FailNow()
		}
	}
}

func kindOfError(err error) shimapi.Kind {
	var told *shimapi.Error
	if errors.As(err, &told) {
		return told.Kind
	}
	return ""
}

func onDisk(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// ended is closed when the process that serves a shim now has ended.
func ended(sh *Shim) <-chan struct{} {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	return sh.process.gone
}
