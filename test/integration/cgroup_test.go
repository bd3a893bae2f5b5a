package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// v2 tells whether the machine has cgroup v2 alone.
var v2 = func() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}()

// onlyV2 skips what is asked for by a file of cgroup v2 alone; a machine without it
// must say so, not leave the wish out silently.
func onlyV2(t *testing.T, p *pod, file, value string) {
	t.Helper()
	if v2 {
		return
	}
	_, err := p.create(client.Shell("unified", "true", resources(&runtimeapi.LinuxContainerResources{Unified: map[string]string{file: value}})))
	if err == nil || !strings.Contains(err.Error(), "cgroup v2") {
		t.Errorf("%s asked for: %v", file, err)
	}
	t.Skipf("%s is of cgroup v2, and this machine has v1", file)
}

// cgroupDir is the directory of the cgroup that a process is in.
func cgroupDir(t *testing.T, pid int, controller string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if v2 && f[1] == "" {
			return filepath.Join("/sys/fs/cgroup", f[2])
		}
		if slices.Contains(strings.Split(f[1], ","), controller) {
			return filepath.Join("/sys/fs/cgroup", controller, f[2])
		}
	}
	t.Fatalf("process %d is in no cgroup of %s", pid, controller)
	return ""
}

// systemdDriver tells whether cgroups are systemd's to make.
func systemdDriver(t *testing.T) bool {
	t.Helper()
	r, err := shared.Runtime.RuntimeConfig(within(t), &runtimeapi.RuntimeConfigRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetLinux().GetCgroupDriver() == runtimeapi.CgroupDriver_SYSTEMD
}

// cgroupDirs are where a cgroup of a name is: on v1 one a hierarchy.
func cgroupDirs(name string) (dirs []string) {
	if v2 {
		return []string{filepath.Join("/sys/fs/cgroup", name)}
	}
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for _, f := range hierarchies {
		dirs = append(dirs, filepath.Join(filepath.Dir(f), name))
	}
	return dirs
}

// cgroupRead reads the file that has one name on v1 and another on v2.
func cgroupRead(t *testing.T, dir, onV1, onV2 string) string {
	t.Helper()
	name := onV1
	if v2 {
		name = onV2
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// cgroupValue reads a file of the container's cgroup.
func cgroupValue(t *testing.T, c *ctr, controller, onV1, onV2 string) string {
	t.Helper()
	return cgroupRead(t, cgroupDir(t, c.hostPID(), controller), onV1, onV2)
}

// cgroupKey reads one line of a file of keys and numbers.
func cgroupKey(t *testing.T, dir, onV1, onV2, key string) uint64 {
	t.Helper()
	text := cgroupRead(t, dir, onV1, onV2)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			return number(t, f[1])
		}
	}
	t.Fatalf("no %s in %s: %s", key, dir, text)
	return 0
}

// oomKills is the kernel's count of processes it killed for memory.
func oomKills(t *testing.T, dir string) uint64 {
	t.Helper()
	return cgroupKey(t, dir, "memory.oom_control", "memory.events", "oom_kill")
}

// oomKillsFromNow counts the kills from now on in a cgroup that goes with the container: on v2
// the one above it counts them too, with those of others before. On v1 only the machine does,
// whose count tells no more than that there was one.
func oomKillsFromNow(t *testing.T, dir string) func() uint64 {
	t.Helper()
	above := func() uint64 { return oomKills(t, filepath.Dir(dir)) }
	if !v2 {
		start := machineOOMKills(t)
		above = func() uint64 { return min(1, machineOOMKills(t)-start) }
	}
	before := above()
	return func() uint64 {
		t.Helper()
		return above() - before
	}
}

// machineOOMKills is the kernel's count of all processes it killed for memory, see vmstat in
// proc_vmstat(5).
func machineOOMKills(t *testing.T) uint64 {
	t.Helper()
	data, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return number(t, strings.TrimSpace(value))
		}
	}
	t.Fatal("the kernel counts no kills")
	return 0
}

func number(t *testing.T, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A container writes nothing where its cgroups are, neither into them nor beside
// them, with its own users or the host's; a privileged one may.
func TestCgroupsAreReadOnly(t *testing.T) {
	maps := []*runtimeapi.IDMapping{{HostId: 1 << 23, Length: 1 << 16}}
	own := &runtimeapi.NamespaceOption{
		UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: maps, Gids: maps},
	}
	const write = "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/x 2>/dev/null && echo $d && rmdir $d/x; done; ls /sys/fs/cgroup | wc -l"
	for name, o := range map[string]*runtimeapi.NamespaceOption{"host-users": {}, "own-users": own} {
		c := shared.pod(t, named(name), namespaces(o)).idle("c", sameNamespaces(o))
		if got := c.Sh(write); strings.Contains(got, "/") || strings.TrimSpace(got) == "0" {
			t.Errorf("%s: written to are %q", name, got)
		}
	}
	p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{Privileged: true}
	})
	c := p.idle("privileged", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{Privileged: true}
	})
	if got := c.Sh(write); !strings.Contains(got, "/sys/fs/cgroup") {
		t.Errorf("privileged: written to are %q", got)
	}
}

// What the kubelet's memory QoS asks for by files of cgroup v2 is set, at creation and
// by an update.
func TestUnifiedIsSet(t *testing.T) {
	p := shared.pod(t)
	asked := map[string]string{"memory.high": "33554432", "memory.min": "4194304", "memory.low": "8388608", "memory.oom.group": "1"}
	onlyV2(t, p, "memory.high", asked["memory.high"])
	c := p.idle("c", resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, Unified: asked}))
	check := func(when string) {
		t.Helper()
		for file, want := range asked {
			if got := cgroupValue(t, c, "", "", file); got != want {
				t.Errorf("%s: %s is %s, want %s", when, file, got, want)
			}
		}
	}
	check("created")
	asked["memory.high"], asked["memory.min"] = "50331648", "0"
	if err := c.update(&runtimeapi.LinuxContainerResources{Unified: asked}, nil); err != nil {
		t.Fatal(err)
	}
	check("updated")
	if systemdDriver(t) {
		systemctl(t, "daemon-reload")
		check("after a reload of systemd")
	}
}

// The options of the host's cgroup2 mount are the hierarchy's: a container's mount of it
// must not take them away.
func TestCgroup2MountKeepsItsOptions(t *testing.T) {
	if !v2 {
		t.Skip("this machine has cgroup v1")
	}
	options := func(mounts string) string {
		for line := range strings.Lines(mounts) {
			if f := strings.Fields(line); len(f) > 3 && f[2] == "cgroup2" {
				return f[3]
			}
		}
		return ""
	}
	host := func() string {
		data, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		return options(string(data))
	}
	before := host()
	if !strings.Contains(before, "nsdelegate") {
		t.Fatalf("the host's own are %q, without nsdelegate", before)
	}
	c := shared.pod(t).idle("c")
	inside := options(c.Sh("cat /proc/mounts"))
	for o := range strings.SplitSeq(before, ",") {
		if o != "rw" && !strings.Contains(inside, o) {
			t.Errorf("the container's mount lacks %s: %s", o, inside)
		}
	}
	if after := host(); after != before {
		t.Errorf("the host's are %q, and were %q", after, before)
	}
}

// The kernel counts what a container waits for, and tells it in its cgroup.
func TestPressureIsCounted(t *testing.T) {
	if !v2 {
		t.Skip("this machine has cgroup v1")
	}
	c := shared.pod(t).start("c", "while :; do :; done", resources(&runtimeapi.LinuxContainerResources{CpuQuota: 5000, CpuPeriod: 100000}))
	eventually(t, "a container at its CPU limit has waited for CPU", func() bool {
		_, total, ok := strings.Cut(cgroupValue(t, c, "", "", "cpu.pressure"), "total=")
		some, _, _ := strings.Cut(total, "\n")
		return ok && number(t, some) > 0
	})
}

// The limits of a pod whose cgroup is berth's are the kernel's, with the overhead on top,
// and an update changes them; they go with the pod.
func TestPodLevelLimits(t *testing.T) {
	limits := func(mib int64) *runtimeapi.LinuxContainerResources {
		return &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: mib << 20, CpuShares: 512}
	}
	with := func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Resources, c.Linux.Overhead = limits(48), limits(16)
	}
	if systemdDriver(t) {
		cfg := shared.podConfig(t)
		with(cfg)
		if _, err := shared.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: cfg}); err == nil || !strings.Contains(err.Error(), "cgroup_parent") {
			t.Errorf("limits of a pod without a slice, which is systemd's to make: %v", err)
		}
		return
	}
	p := shared.pod(t, with)
	c := p.start("c", "sleep 1000")
	dir := filepath.Dir(cgroupDir(t, c.hostPID(), "memory"))
	check := func(when, want string) {
		t.Helper()
		if got := cgroupRead(t, dir, "memory.limit_in_bytes", "memory.max"); got != want {
			t.Errorf("%s the pod's memory is limited to %s bytes, want %s", when, got, want)
		}
	}
	check("at first", strconv.Itoa(64<<20))
	_, err := shared.Runtime.UpdatePodSandboxResources(within(t), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: p.ID, Resources: limits(80)})
	if err != nil {
		t.Fatal(err)
	}
	check("after an update", strconv.Itoa(96<<20))
	if st := p.start("fat", "exec "+allocate128).Ended(); st.GetExitCode() != 137 {
		t.Errorf("a container without a limit that takes more than its pod may have ended with %d, want 137", st.GetExitCode())
	}
	p.Remove()
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is left after the pod", dir)
	}
}
