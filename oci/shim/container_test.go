package shim_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

func TestPodAndContainer(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	netns := filepath.Join(n.Dir, "state", "pods", pod, "net")
	var pinned, own unix.Stat_t
	if err := errors.Join(unix.Stat(netns, &pinned), unix.Stat(fmt.Sprintf("/proc/%d/ns/net", n.PodRecord(pod).PID), &own)); err != nil {
		t.Fatal(err)
	}
	if pinned.Ino != own.Ino {
		t.Error("the network namespace is not pinned")
	}
	r := n.Run(pod, "hostname; echo to-stderr >&2; exit 7")
	rec := n.Exit(r)
	if rec.ExitCode != 7 || rec.Signal != 0 || rec.OOMKilled || rec.Pod != pod || rec.StartedAt.IsZero() || rec.FinishedAt.Before(rec.StartedAt) {
		t.Errorf("record %+v", rec)
	}
	if out := n.Output(r); !strings.Contains(out, "test-pod\n") || !strings.Contains(out, "to-stderr\n") {
		t.Errorf("output %q", out)
	}
	for range 2 {
		if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
			t.Error(err)
		}
	}
	for _, path := range rec.CgroupPaths {
		if shimnode.OnDisk(path) {
			t.Errorf("cgroup %s is left", path)
		}
	}
	if shimnode.OnDisk(filepath.Join(n.Config.StateDir, "shims", n.Shim.ID(), "state", r.ID)) {
		t.Error("libcontainer's state is left")
	}
	for range 2 {
		if err := n.Shim.StopPod(n.Ctx, pod); err != nil {
			t.Error(err)
		}
	}
	if shimnode.OnDisk(netns) {
		t.Error("network namespace is still pinned")
	}
	n.Seen.Await(t, shimapi.EventPodExited, pod)
}

// TestAnEndedContainerHasNoCgroup: cAdvisor would report it beside those that run, and the
// kubelet's metrics would hold one more series for every restart. Where it made cgroups of its
// own they go as well.
func TestAnEndedContainerHasNoCgroup(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "sleep 1000")
	paths := shimnode.ReadRecord(t, r.Dir).CgroupPaths
	if len(paths) == 0 {
		t.Fatal("the container has no cgroup")
	}
	for _, dir := range paths {
		if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(r); rec.ExitCode != 137 {
		t.Errorf("exit code %d", rec.ExitCode)
	}
	for controller, dir := range paths {
		shimnode.Eventually(t, "cgroup "+dir+" of "+controller+" removed", func() bool { return !shimnode.OnDisk(dir) })
	}
	if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
		t.Error(err)
	}
}

func TestExitCodesAndSignals(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	trap := "trap 'exit 42' TERM; trap 'exit 43' 37; echo ready; while :; do sleep 1 & wait; done"
	for _, c := range []struct {
		name, script string
		signal       int
		all          bool
		code, death  int
	}{
		{"zero", "true", 0, false, 0, 0},
		{"max", "exit 255", 0, false, 255, 0},
		{"term handled", trap, 15, false, 42, 0},
		{"real-time", trap, 37, false, 43, 0},
		{"kill", trap, 9, false, 137, 9},
		{"kill all", trap, 9, true, 137, 9},
		{"term all", trap, 15, true, 42, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := n.Run(pod, c.script)
			if c.signal != 0 {
				shimnode.WaitLog(t, r.LogPath, "ready")
				if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: c.signal, All: c.all}); err != nil {
					t.Fatal(err)
				}
			}
			if rec := n.Exit(r); rec.ExitCode != c.code || rec.Signal != c.death || rec.OOMKilled {
				t.Errorf("%+v", rec)
			}
			if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: 9}); shimnode.KindOfError(err) != shimapi.KindNotRunning {
				t.Errorf("kill after the end: %v", err)
			}
		})
	}
}

func TestStartFailures(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	if err := os.WriteFile(filepath.Join(n.Rootfs, "etc/plain"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.Rootfs, "bin/alien"), []byte("\x7fELF\x02\x01\x01 not for this machine"), 0o755); err != nil {
		t.Fatal(err)
	}
	args := func(a ...string) func(*shimapi.CreateRequest, *specs.Spec) {
		return func(_ *shimapi.CreateRequest, s *specs.Spec) { s.Process.Args = a }
	}
	missing := filepath.Join(t.TempDir(), "missing")
	for _, c := range []struct {
		name, want string
		alter      func(*shimapi.CreateRequest, *specs.Spec)
	}{
		{"missing", `command "/bin/none": no such file or directory`, args("/bin/none")},
		{"not in PATH", `command "none": executable file not found in $PATH`, args("none")},
		{"not executable", `command "/etc/plain": permission denied`, args("/etc/plain")},
		{"directory", `command "/etc": is a directory`, args("/etc")},
		{"cwd is a file", `working directory "/etc/plain": not a directory`, func(_ *shimapi.CreateRequest, s *specs.Spec) { s.Process.Cwd = "/etc/plain" }},
		{"bad mount", missing, func(_ *shimapi.CreateRequest, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Source: missing, Type: "bind", Options: []string{"bind"}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := n.Request(pod, "true", c.alter)
			_, err := n.Shim.Create(n.Ctx, r)
			if err == nil || !strings.Contains(err.Error(), c.want) || shimnode.KindOfError(err) != shimapi.KindStartFailed {
				t.Errorf("create: %v (%s)", err, shimnode.KindOfError(err))
			}
			if strings.Contains(fmt.Sprint(err), "container init") || strings.Contains(fmt.Sprint(err), "runc") {
				t.Errorf("noise: %v", err)
			}
			status := shimnode.ReadRecord(t, r.Dir)
			if status.Status != shimapi.StatusStopped || status.ExitCode != 128 || status.Reason != "StartError" || status.Message == "" {
				t.Errorf("record %+v", status)
			}
			if err := n.Shim.Start(n.Ctx, r.ID); shimnode.KindOfError(err) != shimapi.KindNotFound {
				t.Errorf("start: %v", err)
			}
		})
	}
	t.Run("wrong architecture", func(t *testing.T) {
		r := n.Run(pod, "", args("/bin/alien"))
		if rec := n.Exit(r); rec.ExitCode != 128 || rec.Reason != "StartError" || !strings.Contains(rec.Message, "/bin/alien: exec format error") {
			t.Errorf("record %+v", rec)
		}
	})
	if r := n.Run(pod, "exit 3"); n.Exit(r).ExitCode != 3 {
		t.Error("the pod does not work any more")
	}
}

func TestRefusals(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	cgroup := func(path string) func(*shimapi.CreateRequest, *specs.Spec) {
		return func(_ *shimapi.CreateRequest, s *specs.Spec) { s.Linux.CgroupsPath = path }
	}
	for name, alter := range map[string]func(*shimapi.CreateRequest, *specs.Spec){
		"root cgroup":     cgroup("/"),
		"no cgroup":       cgroup(""),
		"relative cgroup": cgroup("x/y"),
		"dotted cgroup":   cgroup("/x/.."),
		"no command":      func(_ *shimapi.CreateRequest, s *specs.Spec) { s.Process.Args = nil },
		"no root":         func(_ *shimapi.CreateRequest, s *specs.Spec) { s.Root = nil },
	} {
		if _, err := n.Shim.Create(n.Ctx, n.Request(pod, "true", alter)); shimnode.KindOfError(err) != shimapi.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, sysctls := range map[string]map[string]string{
		"host's":      {"vm.swappiness": "1"},
		"escape":      {"net.ipv4/../../../etc": "1"},
		"no such ns.": {"kernel.shmmax": "1"},
	} {
		_, err := n.Shim.RunPod(n.Ctx, &shimapi.RunPodRequest{ID: shimnode.NewID(), Dir: n.Dir, NewNet: true, Sysctls: sysctls})
		if shimnode.KindOfError(err) != shimapi.KindInvalid {
			t.Errorf("sysctl %s: %v", name, err)
		}
	}
	if err := n.Shim.Start(n.Ctx, "none"); shimnode.KindOfError(err) != shimapi.KindNotFound {
		t.Errorf("start of nothing: %v", err)
	}
	for _, err := range []error{n.Shim.Delete(n.Ctx, "none"), n.Shim.StopPod(n.Ctx, "none"), n.Shim.RemovePod(n.Ctx, "none")} {
		if err != nil {
			t.Error(err)
		}
	}
	c := shimapi.Dial(n.Ctx, filepath.Join(n.Config.StateDir, "shims", n.Shim.ID(), shimapi.SocketName))
	defer c.Close()
	c.WriteRequest("no-such-method", struct{}{})
	if _, err := c.ReadResponse(nil); shimnode.KindOfError(err) != shimapi.KindInvalid {
		t.Errorf("unknown method: %v", err)
	}
}

func TestKillBeforeStart(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	r := n.Request(pod, "true")
	if _, err := n.Shim.Create(n.Ctx, r); err != nil {
		t.Fatal(err)
	}
	if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(r); rec.ExitCode != 137 || rec.Reason != "" {
		t.Errorf("record %+v", rec)
	}
	if err := n.Shim.Start(n.Ctx, r.ID); shimnode.KindOfError(err) != shimapi.KindNotRunning {
		t.Errorf("start after the end: %v", err)
	}
}

func TestSharedPIDNamespace(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod(func(r *shimapi.RunPodRequest) { r.NewPID = true })
	pause := n.PodRecord(pod).PID
	join := func(_ *shimapi.CreateRequest, s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.PIDNamespace {
				s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", pause)
			}
		}
	}
	r := n.Run(pod, "cat /proc/1/comm; (setsid sleep 1000 &) ; exit 5", join)
	rec := n.Exit(r)
	if rec.ExitCode != 5 {
		t.Errorf("record %+v", rec)
	}
	if out := n.Output(r); !strings.HasPrefix(out, "pause\n") {
		t.Errorf("PID 1 is %q", out)
	}
	for _, dir := range rec.CgroupPaths {
		if left, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil && len(left) > 0 {
			t.Errorf("%s holds %q", dir, left)
		}
	}
	if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
		t.Error(err)
	}
}

func TestUserNamespace(t *testing.T) {
	n := shimnode.New(t)
	maps := []shimapi.IDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	pod := n.Pod(func(r *shimapi.RunPodRequest) {
		r.UIDMaps, r.GIDMaps = maps, maps
		r.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
	})
	if err := os.Chmod(n.Dir, 0o755); err != nil { // the container's root must reach its rootfs
		t.Fatal(err)
	}
	pause := n.PodRecord(pod).PID
	r := n.Run(pod, "id -u; cat /proc/self/uid_map; echo again >/dev/stdout", func(_ *shimapi.CreateRequest, s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/%d/ns/user", pause)})
		m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/stdout", Type: "bind", Source: "/dev/null", Options: []string{"bind"}})
		s.Mounts = s.Mounts[:len(s.Mounts)-1]
	})
	if rec := n.Exit(r); rec.ExitCode != 0 {
		t.Errorf("record %+v", rec)
	}
	if out := strings.Fields(n.Output(r)); len(out) != 5 || out[0] != "0" || out[2] != "100000" || out[4] != "again" {
		t.Errorf("output %q", out)
	}
}

// TestCgroupOfASandbox: the pod's own cgroup is there from the start. On v2 pause is in it;
// on v1 it is empty, since what looks for it needs only its name. It goes with the pod.
func TestCgroupOfASandbox(t *testing.T) {
	n := shimnode.New(t)
	parent := "berth-test-" + shimnode.NewID()[:8]
	id := n.Pod(func(r *shimapi.RunPodRequest) { r.CgroupPath = filepath.Join(parent, r.ID) })
	root, v1 := "/sys/fs/cgroup", filepath.Join("/sys/fs/cgroup", shimapi.SandboxHierarchy)
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	v2 := err == nil
	if !v2 {
		root = v1
	}
	dir := filepath.Join(root, parent, id)
	t.Cleanup(func() {
		_ = os.Remove(dir)
		if err := os.Remove(filepath.Dir(dir)); err != nil {
			t.Error(err)
		}
	})
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(strings.Fields(string(procs))); v2 && got != 1 || !v2 && got != 0 {
		t.Errorf("%d processes in the cgroup of the sandbox, on v2: %t", got, v2)
	}
	if err := n.Shim.RemovePod(n.Ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the cgroup of the sandbox is left after the pod")
	}
}
