package nri

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// hooks write their name into a file of the host's, in the order of the runtime-spec.
var hooks = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// everything is one change of each kind that the protocol knows and this machine can do.
func everything(dir string) *api.ContainerAdjustment {
	a := &api.ContainerAdjustment{}
	a.AddAnnotation("plugin/says", "hello")
	a.AddMount(&api.Mount{Source: dir, Destination: "/plugin", Type: "bind", Options: []string{"bind", "rw"}})
	a.AddEnv("PLUGIN", "was here")
	a.RemoveEnv("GONE")
	a.SetArgs([]string{"sh", "-c", "echo changed > /plugin/args; exec sleep 1000"})
	a.AddRlimit("RLIMIT_NOFILE", 1234, 1000)
	a.AddDevice(&api.LinuxDevice{Path: "/dev/plugin", Type: "c", Major: 1, Minor: 3, FileMode: api.FileMode(0o666)})
	a.SetLinuxOomScoreAdj(ptr(321))
	a.SetLinuxIOPriority(&api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_BE, Priority: 6})
	a.SetLinuxScheduler(&api.LinuxScheduler{Policy: api.LinuxSchedulerPolicy_SCHED_BATCH, Nice: 3})
	a.SetLinuxMemoryPolicy(api.MpolMode_MPOL_BIND, "0")
	a.SetLinuxCPUShares(512)
	a.SetLinuxCPUPeriod(100000)
	a.SetLinuxCPUQuota(30000)
	a.SetLinuxCPUSetCPUs("0")
	a.SetLinuxMemoryLimit(64 << 20)
	a.SetLinuxPidLimits(77)
	a.SetLinuxSysctl("net.ipv4.ip_unprivileged_port_start", "99")
	a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "cgroup"})
	a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{
		DefaultAction: "SCMP_ACT_ALLOW", Architectures: []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"},
		Syscalls: []*api.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: api.UInt32(uint32(unix.EXDEV))}},
	})
	h := &api.Hooks{}
	for name, list := range map[string]*[]*api.Hook{
		"prestart": &h.Prestart, "createRuntime": &h.CreateRuntime, "createContainer": &h.CreateContainer,
		"poststart": &h.Poststart, "poststop": &h.Poststop,
	} {
		*list = []*api.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `cat > ` + dir + "/" + name + `.state; echo "$NAME" >> ` + dir + "/hooks"}, Env: []string{"NAME=" + name, "PATH=/bin:/usr/bin"}}}
	}
	// This one runs in the container, whose /bin/sh is busybox.
	h.StartContainer = []*api.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > /plugin/startContainer.state; echo startContainer >> /plugin/hooks"}, Env: []string{"PATH=/bin"}}}
	a.AddHooks(h)
	return a
}

func ptr[T any](v T) *T { return &v }

// Each change that a plugin asks for is there, in the container and in the kernel's files.
func TestAdjustmentsOfEveryKind(t *testing.T) {
	dir := t.TempDir()
	p := connect(t, shared.socket, "20-adjuster", func(p *plugin) {
		p.adjust = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			return everything(dir), nil, nil
		}
	})
	pod := shared.pod(t, "adjusted")
	c := pod.Start(client.Shell("a", "exit 1", func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "GONE", Value: []byte("x")}, {Key: "STAYS", Value: []byte("y")}}
	}))
	p.await(t, "PostStartContainer adjusted/a")
	inside(t, c)
	outside(t, int(p.seen(c.ID).GetPid()))
	if got := p.seen(c.ID).GetAnnotations()["plugin/says"]; got != "hello" {
		t.Errorf("annotation: %q", got)
	}
	var info struct {
		RuntimeSpec struct{ Annotations map[string]string }
	}
	if c.Verbose(&info); info.RuntimeSpec.Annotations["plugin/says"] != "hello" {
		t.Errorf("annotations of the spec: %v", info.RuntimeSpec.Annotations)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "args")); string(data) != "changed\n" {
		t.Errorf("args: %q, %v", data, err)
	}
	c.Stop(0)
	c.Remove()
	ran(t, dir, c.ID)
}

// inside asks the container itself.
func inside(t *testing.T, c *client.Container) {
	t.Helper()
	for script, want := range map[string]string{
		`echo "$PLUGIN,$GONE,$STAYS"`:                       "was here,,y",
		"ulimit -n; ulimit -Hn":                             "1000\n1234",
		"echo x > /dev/plugin && stat -c %t,%T /dev/plugin": "1,3",
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start": "99",
		"mkdir /tmp/x 2>&1 || true":                         "mkdir: can't create directory '/tmp/x': Invalid cross-device link",
	} {
		if got := strings.TrimSpace(c.Sh(script)); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

// outside asks the kernel of the container's first process.
func outside(t *testing.T, pid int) {
	t.Helper()
	files := [][3]string{ // controller, file on v1, value
		{"cpu", "cpu.shares", "512"}, {"cpu", "cpu.cfs_quota_us", "30000"}, {"cpuset", "cpuset.cpus", "0"},
		{"memory", "memory.limit_in_bytes", "67108864"}, {"pids", "pids.max", "77"},
	}
	if v2() {
		files = [][3]string{{"", "cpu.max", "30000 100000"}, {"", "cpuset.cpus", "0"}, {"", "memory.max", "67108864"}, {"", "pids.max", "77"}}
	}
	for _, f := range files {
		if got := cgroupFile(t, pid, f[0], f[1]); got != f[2] {
			t.Errorf("%s: %s, want %s", f[1], got, f[2])
		}
	}
	const ioprioWhoProcess, classBE = 1, 2
	if prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(pid), 0); errno != 0 || prio != classBE<<13|6 {
		t.Errorf("ioprio: %#x, %v", prio, errno)
	}
	if attr, err := unix.SchedGetAttr(pid, 0); err != nil || attr.Policy != unix.SCHED_BATCH || attr.Nice != 3 {
		t.Errorf("scheduler: %+v, %v", attr, err)
	}
	if score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid)); string(score) != "321\n" {
		t.Errorf("oom_score_adj: %q, %v", score, err)
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/cgroup", pid))
	if ours, _ := os.Readlink("/proc/self/ns/cgroup"); err != nil || theirs == ours {
		t.Errorf("cgroup namespace: %q, ours is %q, %v", theirs, ours, err)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/numa_maps", pid))
	if err != nil || !strings.Contains(string(maps), " bind:0 ") {
		t.Errorf("memory policy: %.200s, %v", maps, err)
	}
}

// ran wants every hook to have run once, in the order of the runtime-spec, with the state
// of the container on its standard input.
func ran(t *testing.T, dir, id string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "hooks"))
	if got := strings.Fields(string(data)); err != nil || !slices.Equal(got, hooks) {
		t.Errorf("hooks ran: %q, %v", got, err)
	}
	for _, name := range hooks {
		state, err := os.ReadFile(filepath.Join(dir, name+".state"))
		if err != nil || !strings.Contains(string(state), id) {
			t.Errorf("state of hook %s: %q, %v", name, state, err)
		}
	}
}

func v2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// cgroupFile reads a file of the cgroup that a process is in.
func cgroupFile(t *testing.T, pid int, controller, file string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[1] != controller && !slices.Contains(strings.Split(f[1], ","), controller) {
			continue
		}
		value, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, f[2], file))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(value))
	}
	t.Fatalf("process %d is in no cgroup of %s: %s", pid, controller, data)
	return ""
}

// What can't be done here is refused, and the error says what.
func TestAdjustmentsThatCantBeMade(t *testing.T) {
	for want, change := range map[string]func(*api.ContainerAdjustment){
		"classes of block I/O":       func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("slow") },
		"no.such/thing=one":          func(a *api.ContainerAdjustment) { a.AddCDIDevice(&api.CDIDevice{Name: "no.such/thing=one"}) },
		"RLIMIT_NONSENSE":            func(a *api.ContainerAdjustment) { a.AddRlimit("RLIMIT_NONSENSE", 1, 1) },
		"no namespace \"nonsense\"":  func(a *api.ContainerAdjustment) { a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "nonsense"}) },
		"kernel.hostname":            func(a *api.ContainerAdjustment) { a.SetLinuxSysctl("kernel.hostname", "x") },
		"device or resource busy|no": func(a *api.ContainerAdjustment) { a.SetLinuxCPUSetCPUs("999") },
	} {
		t.Run(want, func(t *testing.T) {
			connect(t, shared.socket, "20-asker", func(p *plugin) {
				p.adjust = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
					a := &api.ContainerAdjustment{}
					change(a)
					return a, nil, nil
				}
			})
			pod := shared.pod(t, "impossible")
			_, err := pod.TryCreate(client.Shell("a", "exit 0"))
			first, _, _ := strings.Cut(want, "|")
			if err == nil || !strings.Contains(err.Error(), first) && !strings.Contains(want, "|") {
				t.Errorf("the error is %v", err)
			}
			if left := pod.Containers(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// Two plugins that claim the same thing are named.
func TestConflict(t *testing.T) {
	for _, name := range []string{"20-one", "30-other"} {
		connect(t, shared.socket, name, func(p *plugin) {
			p.adjust = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
				a := &api.ContainerAdjustment{}
				a.SetLinuxCPUShares(uint64(len(name)))
				return a, nil, nil
			}
		})
	}
	_, err := shared.pod(t, "conflict").TryCreate(client.Shell("a", "exit 0"))
	if err == nil || !strings.Contains(err.Error(), "20-one") || !strings.Contains(err.Error(), "30-other") {
		t.Errorf("the error is %v", err)
	}
}

// What a plugin removes is gone, and what a later one puts in its place is there.
func TestRemovals(t *testing.T) {
	dir := t.TempDir()
	remove := func(p *plugin) {
		p.adjust = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			a := &api.ContainerAdjustment{}
			a.RemoveMount("/host")
			a.RemoveMount("/replaced")
			a.AddMount(&api.Mount{Source: dir, Destination: "/replaced", Type: "bind", Options: []string{"bind", "ro"}})
			a.RemoveEnv("GONE")
			a.RemoveEnv("REPLACED")
			a.AddEnv("REPLACED", "new")
			a.RemoveDevice("/dev/asked")
			a.RemoveAnnotation("io.kubernetes.cri.image-name")
			a.RemoveNamespace(&api.LinuxNamespace{Type: "ipc"})
			return a, nil, nil
		}
	}
	p := connect(t, shared.socket, "20-remover", remove)
	connect(t, shared.socket, "30-other", func(p *plugin) {
		p.adjust = func(_ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			for _, v := range c.GetEnv() {
				if strings.HasPrefix(v, "GONE=") {
					t.Error("a later plugin is told of a removed variable")
				}
			}
			a := &api.ContainerAdjustment{}
			a.AddEnv("ADDED", "too")
			return a, nil, nil
		}
	})
	pod := shared.pod(t, "removed")
	c := pod.Start(client.Shell("a", "exec sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "GONE", Value: []byte("x")}, {Key: "REPLACED", Value: []byte("old")}, {Key: "STAYS", Value: []byte("y")}}
		c.Mounts = []*runtimeapi.Mount{{HostPath: "/etc", ContainerPath: "/host"}, {HostPath: "/etc", ContainerPath: "/replaced"}}
		c.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/asked"}}
	}))
	if got := strings.TrimSpace(c.Sh(`echo "$GONE,$REPLACED,$STAYS,$ADDED"; ls /host 2>/dev/null | wc -l; ls /replaced | wc -l; ls /dev/asked 2>&1 | wc -w`)); got != ",new,y,too\n0\n0\n7" {
		t.Errorf("in the container: %q", got)
	}
	p.await(t, "PostStartContainer removed/a")
	seen := p.seen(c.ID)
	if v, ok := seen.GetAnnotations()["io.kubernetes.cri.image-name"]; ok {
		t.Errorf("the annotation is still %q", v)
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", seen.GetPid()))
	if host, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", shared.node.PID())); err != nil || theirs != host {
		t.Errorf("IPC namespace %q, the host's is %q, %v", theirs, host, err)
	}
}
