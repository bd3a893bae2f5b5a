package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// hostPID is the container's first process as the host sees it.
func (c *ctr) hostPID() int {
	c.p.T.Helper()
	pids, err := c.p.s.PIDs(c.ID)
	if err != nil || len(pids) == 0 {
		c.p.T.Fatalf("processes of %s: %v, %v", c.ID, pids, err)
	}
	return pids[0] // parents come first; numbers wrap around
}

func TestExitsAreExact(t *testing.T) {
	p := shared.pod(t)
	cases := map[string]struct {
		script, reason string
		code           int32
	}{
		"zero":   {"exit 0", "Completed", 0},
		"seven":  {"exit 7", "Error", 7},
		"255":    {"exit 255", "Error", 255},
		"killed": {"kill -KILL $$", "Error", 137},
		"term":   {"kill -TERM $$; sleep 10", "Error", 143},
		"segv":   {"kill -SEGV $$", "Error", 139},
	}
	for name, c := range cases {
		before := time.Now()
		ended := p.start(name, "sleep 0.2; "+c.script).Ended()
		after := time.Now()
		if ended.GetExitCode() != c.code || ended.GetReason() != c.reason {
			t.Errorf("%s: %d %s, want %d %s", name, ended.GetExitCode(), ended.GetReason(), c.code, c.reason)
		}
		at := []time.Time{
			before, time.Unix(0, ended.GetCreatedAt()), time.Unix(0, ended.GetStartedAt()),
			time.Unix(0, ended.GetStartedAt()).Add(200 * time.Millisecond), time.Unix(0, ended.GetFinishedAt()), after,
		}
		if !slices.IsSortedFunc(at, time.Time.Compare) {
			t.Errorf("%s: asked, created, started, +200 ms, finished, seen are out of order: %v", name, at)
		}
	}
}

func TestWhatRuns(t *testing.T) {
	p := shared.pod(t)
	user := func(sc *runtimeapi.LinuxContainerSecurityContext) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext = sc }
	}
	const staging = "gcr.io/k8s-staging-cri-tools/"
	from := func(image string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Image.Image = image }
	}
	cases := map[string]struct {
		script, want string
		change       []func(*runtimeapi.ContainerConfig)
	}{
		"args":      {"", "one two\n", []func(*runtimeapi.ContainerConfig){func(c *runtimeapi.ContainerConfig) { c.Command, c.Args = []string{"echo", "one"}, []string{"two"} }}},
		"args-only": {"", "from args\n", []func(*runtimeapi.ContainerConfig){func(c *runtimeapi.ContainerConfig) { c.Command, c.Args = nil, []string{"echo", "from args"} }}},
		"env": {"echo $A-$PATH", "b=c-/bin\n", []func(*runtimeapi.ContainerConfig){func(c *runtimeapi.ContainerConfig) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b=c")}, {Key: "PATH", Value: []byte("/bin")}}
		}}},
		"image-env":  {"echo $PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n", nil},
		"workdir":    {"pwd", "/made/for/it\n", []func(*runtimeapi.ContainerConfig){func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/made/for/it" }}},
		"uid":        {"id -u; id -g; id -G", "1234\n0\n0\n", []func(*runtimeapi.ContainerConfig){user(&runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: 1234}})}},
		"name":       {"id -u; id -g", "33\n33\n", []func(*runtimeapi.ContainerConfig){user(&runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "www-data"})}},
		"group":      {"id -u; id -g", "5\n6\n", []func(*runtimeapi.ContainerConfig){user(&runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: 5}, RunAsGroup: &runtimeapi.Int64Value{Value: 6}})}},
		"image-uid":  {"id -u", "1002\n", []func(*runtimeapi.ContainerConfig){from(staging + "test-image-user-uid")}},
		"image-name": {"id -un; id -g", "www-data\n1004\n", []func(*runtimeapi.ContainerConfig){from(staging + "test-image-user-username-group")}},
		"home":       {"echo $HOME", "/root\n", nil},
	}
	for name, c := range cases {
		run := p.start(name, c.script, c.change...)
		if st := run.Ended(); st.GetExitCode() != 0 {
			t.Errorf("%s ended with %d %s", name, st.GetExitCode(), st.GetMessage())
		}
		if got := output(readLog(t, run.LogFile()), "stdout"); got != c.want {
			t.Errorf("%s printed %q, want %q", name, got, c.want)
		}
	}
}

func TestLogFormat(t *testing.T) {
	p := shared.pod(t)
	long := strings.Repeat("0123456789abcdef", 5000) // 80 000 bytes: several parts
	before := time.Now().Add(-time.Second)
	c := p.start("c", "echo out; echo err >&2; for i in 1 2 3 4 5; do echo -n 0123456789abcdef; done; echo; "+
		"yes 0123456789abcdef | head -5000 | tr -d '\\n'; echo; echo; printf 'no end'")
	c.Ended()
	lines := readLog(t, c.LogFile())
	want := "out\n" + strings.Repeat("0123456789abcdef", 5) + "\n" + long + "\n\nno end"
	got := strings.TrimSuffix(output(lines, "stdout"), "\n")
	if got != want {
		t.Errorf("stdout of %d bytes, want %d; ends %q", len(got), len(want), got[max(0, len(got)-40):])
	}
	if got := output(lines, "stderr"); got != "err\n" {
		t.Errorf("stderr %q", got)
	}
	if !slices.ContainsFunc(lines, func(l logLine) bool { return !l.Full }) {
		t.Error("a line of 80 000 bytes is not in parts")
	}
	for i, l := range lines {
		if l.At.Before(before) || l.At.After(time.Now()) {
			t.Errorf("line %d is of %v", i, l.At)
		}
		if len(l.Text) > 16<<10 {
			t.Errorf("a part has %d bytes", len(l.Text))
		}
	}
	if st, err := os.Stat(c.LogFile()); err != nil || st.Mode().Perm() != 0o640 && st.Mode().Perm() != 0o600 {
		t.Errorf("the log is %v, %v: others must not read it", st.Mode(), err)
	}
}

// Rotation as the kubelet does it loses no line and repeats none.
func TestLogRotation(t *testing.T) {
	p := shared.pod(t)
	c := p.start("c", "i=0; while [ $i -lt 20000 ]; do echo line-$i; i=$((i+1)); done")
	file := c.LogFile()
	var parts []string
	for n := 0; ; n++ {
		old := fmt.Sprintf("%s.%d", file, n)
		if err := os.Rename(file, old); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, old)
		_, err := shared.Runtime.ReopenContainerLog(within(t), &runtimeapi.ReopenContainerLogRequest{ContainerId: c.ID})
		if err != nil {
			wantCode(t, "reopen of an ended container", err, codes.FailedPrecondition) // its status may lag
			break
		}
	}
	c.Ended()
	if _, err := os.Stat(file); err == nil {
		parts = append(parts, file)
	}
	if len(parts) < 3 {
		t.Skipf("the container ended after %d rotations", len(parts))
	}
	var all strings.Builder
	for _, f := range parts {
		all.WriteString(output(readLog(t, f), "stdout"))
	}
	var want strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&want, "line-%d\n", i)
	}
	if all.String() != want.String() {
		t.Errorf("%d rotations gave %d bytes, want %d", len(parts), all.Len(), want.Len())
	}
}

func TestStop(t *testing.T) {
	p := shared.pod(t)
	cases := map[string]struct {
		script      string
		grace       time.Duration
		code        int32
		least, most time.Duration
	}{
		"handled": {"trap 'exit 3' TERM; echo set; while :; do sleep 0.05; done", 10 * time.Second, 3, 0, 3 * time.Second},
		"ignored": {"trap '' TERM; echo set; while :; do sleep 0.05; done", time.Second, 137, time.Second, 4 * time.Second},
		"at-once": {"trap '' TERM; echo set; while :; do sleep 0.05; done", 0, 137, 0, 2 * time.Second},
	}
	for name, c := range cases {
		run := p.start(name, c.script)
		eventually(t, "the shell has set its trap", func() bool {
			text, err := os.ReadFile(run.LogFile())
			return err == nil && strings.Contains(string(text), " set\n")
		})
		began := time.Now()
		run.Stop(c.grace)
		if took := time.Since(began); took < c.least || took > client.Bound(c.most) {
			t.Errorf("%s took %v", name, took)
		}
		if st := run.Status(); st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != c.code {
			t.Errorf("%s: %v with %d, want %d", name, st.GetState(), st.GetExitCode(), c.code)
		}
		run.Stop(c.grace) // repeating is fine
		if pids, _ := shared.PIDs(run.ID); len(pids) > 0 {
			t.Errorf("%s: processes left: %v", name, pids)
		}
	}
}

// Of two stops with different grace the shorter counts.
func TestOverlappingStops(t *testing.T) {
	c := shared.pod(t).start("c", "trap '' TERM; while :; do sleep 0.05; done")
	c.Sh("true")
	began := time.Now()
	first := make(chan struct{})
	go func() {
		defer close(first)
		c.Stop(15 * time.Second)
	}()
	c.Stop(time.Second)
	<-first
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("both stops took %v", took)
	}
}

func TestLimitsAreTheKernels(t *testing.T) {
	p := shared.pod(t)
	c := p.start("c", "sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{
			MemoryLimitInBytes: 64 << 20, CpuQuota: 20000, CpuPeriod: 100000, CpuShares: 512, OomScoreAdj: 500,
		}
	})
	check := func(memory int64, quota string) {
		t.Helper()
		if got := cgroupValue(t, c, "memory", "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(memory) {
			t.Errorf("memory limit %s, want %d", got, memory)
		}
		if got := cgroupValue(t, c, "cpu", "cpu.cfs_quota_us", "cpu.max"); got != quota && got != quota+" 100000" {
			t.Errorf("cpu quota %s, want %s", got, quota)
		}
	}
	check(64<<20, "20000")
	adj, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", c.hostPID()))
	if err != nil || string(adj) != "500\n" {
		t.Errorf("oom_score_adj %q, %v", adj, err)
	}
	_, err = shared.Runtime.UpdateContainerResources(within(t), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: c.ID, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuQuota: 50000, CpuPeriod: 100000},
	})
	if err != nil {
		t.Fatal(err)
	}
	check(96<<20, "50000")
	if got := c.Status().GetResources().GetLinux().GetMemoryLimitInBytes(); got != 96<<20 {
		t.Errorf("the status tells a memory limit of %d", got)
	}
}

func TestStats(t *testing.T) {
	p := shared.pod(t)
	c := p.start("c", "dd if=/dev/zero of=/file bs=1M count=5 2>/dev/null; while :; do :; done")
	deadline := time.Now().Add(patience)
	for {
		r, err := shared.Runtime.ContainerStats(within(t), &runtimeapi.ContainerStatsRequest{ContainerId: c.ID})
		if err != nil {
			t.Fatal(err)
		}
		s := r.GetStats()
		if s.GetCpu().GetUsageCoreNanoSeconds().GetValue() > 0 && s.GetMemory().GetWorkingSetBytes().GetValue() > 0 &&
			s.GetWritableLayer().GetUsedBytes().GetValue() >= 5<<20 && s.GetWritableLayer().GetInodesUsed().GetValue() > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("stats of a busy container with 5 MiB written: %v", s)
		}
		time.Sleep(100 * time.Millisecond) // figures have no event
	}
}

func TestRemoveContainer(t *testing.T) {
	p := shared.pod(t)
	c := p.start("c", "trap '' TERM; while :; do sleep 0.05; done")
	pid := c.hostPID()
	for range 2 {
		if _, err := shared.Runtime.RemoveContainer(within(t), &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Kill(pid, 0); err == nil {
		t.Errorf("process %d lives", pid)
	}
	_, err := shared.Runtime.ContainerStatus(within(t), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID})
	wantCode(t, "status of a removed container", err, codes.NotFound)
	for _, pattern := range []string{"run/containers/" + c.ID, "root/pods/*/containers/" + c.ID} {
		if left, _ := filepath.Glob(filepath.Join(shared.Dir, pattern)); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestListFiltersContainers(t *testing.T) {
	p := shared.pod(t)
	label := func(v string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Labels = map[string]string{"which": v} }
	}
	a, b := p.start("a", "sleep 1000", label("a")), p.start("b", "true", label("b"))
	b.Ended()
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	for name, c := range map[string]struct {
		filter *runtimeapi.ContainerFilter
		want   []string
	}{
		"pod, newest first": {&runtimeapi.ContainerFilter{PodSandboxId: p.ID}, []string{b.ID, a.ID}},
		"pod's prefix":      {&runtimeapi.ContainerFilter{PodSandboxId: p.ID[:12], LabelSelector: map[string]string{"which": "a"}}, []string{a.ID}},
		"prefix":            {&runtimeapi.ContainerFilter{Id: b.ID[:13]}, []string{b.ID}},
		"running":           {&runtimeapi.ContainerFilter{PodSandboxId: p.ID, State: running}, []string{a.ID}},
	} {
		r, err := shared.Runtime.ListContainers(within(t), &runtimeapi.ListContainersRequest{Filter: c.filter})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, x := range r.GetContainers() {
			got = append(got, x.GetId())
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestMounts(t *testing.T) {
	p := shared.pod(t)
	host := filepath.Join(shared.Dir, "mounted")
	if err := os.MkdirAll(host, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := p.start("c", "sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/rw", HostPath: host},
			{ContainerPath: "/ro", HostPath: host, Readonly: true},
			{ContainerPath: "/deep/file", HostPath: filepath.Join(host, "file")},
		}
	})
	if got := c.Sh("cat /ro/file /deep/file; echo new > /rw/made; touch /ro/x 2>&1 || true"); got != "host\nhost\ntouch: /ro/x: Read-only file system\n" {
		t.Errorf("in the container: %q", got)
	}
	if data, _ := os.ReadFile(filepath.Join(host, "made")); string(data) != "new\n" {
		t.Errorf("on the host: %q", data)
	}
}

// However short a container lives: created, started and stopped are told, in
// that order, once each.
func TestShortContainersTellTheirLife(t *testing.T) {
	p := shared.pod(t)
	want := []runtimeapi.ContainerEventType{
		runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT,
		runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
		runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT,
	}
	for i := range 20 {
		c := p.start(fmt.Sprint("short-", i), "", func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/bin/true"} })
		c.Ended()
		if diff := cmp.Diff(want, shared.events.kinds(c.ID)); diff != "" {
			t.Fatalf("container %d: %s", i, diff)
		}
	}
}

// A parent cgroup that the kubelet made stays, one that berth made goes.
func TestCgroupParent(t *testing.T) {
	if systemdDriver(t) {
		t.Skip("with the systemd driver a parent is a slice, which systemd makes and removes")
	}
	for _, made := range []bool{true, false} {
		name := fmt.Sprintf("%s-%v", shared.CgroupMark, made)
		dirs := cgroupDirs(name)
		if made {
			for _, d := range dirs {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
				defer os.Remove(d)
			}
		}
		p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) {
			c.Metadata.Name, c.Linux.CgroupParent = name, "/"+name+"/between/parent"
		})
		c := p.start("c", "sleep 1000")
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.hostPID()))
		if err != nil || !strings.Contains(string(data), ":/"+name+"/") {
			t.Errorf("the container is in %s, %v", data, err)
		}
		p.End()
		for _, d := range dirs {
			if _, err := os.Stat(d); (err == nil) != made {
				t.Errorf("made before: %v; %s afterwards: %v", made, d, err)
			}
			if below, _ := filepath.Glob(d + "/*/"); len(below) > 0 {
				t.Errorf("left: %v", below)
			}
		}
	}
}

// TestStartedIsExecuted wants that the command is there when StartContainer returns:
// the process of the runtime before it lets nobody open its files in /proc, as
// postStart hooks do.
func TestStartedIsExecuted(t *testing.T) {
	p := shared.pod(t, namespaces(pidMode(runtimeapi.NamespaceMode_CONTAINER)))
	for i := range 40 {
		c := p.start(fmt.Sprint("c", i), "sleep 1000", sameNamespaces(pidMode(runtimeapi.NamespaceMode_CONTAINER)))
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.hostPID()))
		if err != nil || strings.HasPrefix(string(comm), "runc:") {
			t.Fatalf("container %d is %q, %v, when StartContainer has returned", i, comm, err)
		}
	}
}
