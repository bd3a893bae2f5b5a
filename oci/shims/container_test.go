package shims

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
)

func TestPodAndContainer(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	netns := filepath.Join(n.dir, "state", "pods", pod, "net")
	var pinned, own unix.Stat_t
	if err := errors.Join(unix.Stat(netns, &pinned), unix.Stat(fmt.Sprintf("/proc/%d/ns/net", n.podRecord(pod).PID), &own)); err != nil {
		t.Fatal(err)
	}
	if pinned.Ino != own.Ino {
		t.Error("the network namespace is not pinned")
	}
	r := n.run(pod, "hostname; echo to-stderr >&2; exit 7")
	rec := n.exit(r)
	if rec.ExitCode != 7 || rec.Signal != 0 || rec.OOMKilled || rec.Pod != pod || rec.StartedAt.IsZero() || rec.FinishedAt.Before(rec.StartedAt) {
		t.Errorf("record %+v", rec)
	}
	if out := n.output(r); !strings.Contains(out, "test-pod\n") || !strings.Contains(out, "to-stderr\n") {
		t.Errorf("output %q", out)
	}
	for range 2 {
		if err := n.shim.Delete(n.ctx, r.ID); err != nil {
			t.Error(err)
		}
	}
	for _, path := range rec.CgroupPaths {
		if onDisk(path) {
			t.Errorf("cgroup %s is left", path)
		}
	}
	if onDisk(filepath.Join(n.config.StateDir, "shims", n.shim.ID(), "state", r.ID)) {
		t.Error("libcontainer's state is left")
	}
	for range 2 {
		if err := n.shim.StopPod(n.ctx, pod); err != nil {
			t.Error(err)
		}
	}
	if onDisk(netns) {
		t.Error("network namespace is still pinned")
	}
	n.seen.await(t, shimapi.EventPodExited, pod)
}

func TestExitCodesAndSignals(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
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
			r := n.run(pod, c.script)
			if c.signal != 0 {
				waitLog(t, r.LogPath, "ready")
				if err := n.shim.Kill(n.ctx, &shimapi.KillRequest{ID: r.ID, Signal: c.signal, All: c.all}); err != nil {
					t.Fatal(err)
				}
			}
			if rec := n.exit(r); rec.ExitCode != c.code || rec.Signal != c.death || rec.OOMKilled {
				t.Errorf("%+v", rec)
			}
			if err := n.shim.Kill(n.ctx, &shimapi.KillRequest{ID: r.ID, Signal: 9}); kindOfError(err) != shimapi.KindNotRunning {
				t.Errorf("kill after the end: %v", err)
			}
		})
	}
}

func TestStartFailures(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	if err := os.WriteFile(filepath.Join(n.rootfs, "etc/plain"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.rootfs, "bin/alien"), []byte("\x7fELF\x02\x01\x01 not for this machine"), 0o755); err != nil {
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
			r := n.request(pod, "true", c.alter)
			_, err := n.shim.Create(n.ctx, r)
			if err == nil || !strings.Contains(err.Error(), c.want) || kindOfError(err) != shimapi.KindStartFailed {
				t.Errorf("create: %v (%s)", err, kindOfError(err))
			}
			if strings.Contains(fmt.Sprint(err), "container init") || strings.Contains(fmt.Sprint(err), "runc") {
				t.Errorf("noise: %v", err)
			}
			status := readRecord(t, r.Dir)
			if status.Status != shimapi.StatusStopped || status.ExitCode != 128 || status.Reason != "StartError" || status.Message == "" {
				t.Errorf("record %+v", status)
			}
			if err := n.shim.Start(n.ctx, r.ID); kindOfError(err) != shimapi.KindNotFound {
				t.Errorf("start: %v", err)
			}
		})
	}
	t.Run("wrong architecture", func(t *testing.T) {
		r := n.run(pod, "", args("/bin/alien"))
		if rec := n.exit(r); rec.ExitCode != 128 || rec.Reason != "StartError" || !strings.Contains(rec.Message, "/bin/alien: exec format error") {
			t.Errorf("record %+v", rec)
		}
	})
	if r := n.run(pod, "exit 3"); n.exit(r).ExitCode != 3 {
		t.Error("the pod does not work any more")
	}
}

func TestRefusals(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
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
		if _, err := n.shim.Create(n.ctx, n.request(pod, "true", alter)); kindOfError(err) != shimapi.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, sysctls := range map[string]map[string]string{
		"host's":      {"vm.swappiness": "1"},
		"escape":      {"net.ipv4/../../../etc": "1"},
		"no such ns.": {"kernel.shmmax": "1"},
	} {
		_, err := n.shim.RunPod(n.ctx, &shimapi.RunPodRequest{ID: newID(), Dir: n.dir, NewNet: true, Sysctls: sysctls})
		if kindOfError(err) != shimapi.KindInvalid {
			t.Errorf("sysctl %s: %v", name, err)
		}
	}
	if err := n.shim.Start(n.ctx, "none"); kindOfError(err) != shimapi.KindNotFound {
		t.Errorf("start of nothing: %v", err)
	}
	for _, err := range []error{n.shim.Delete(n.ctx, "none"), n.shim.StopPod(n.ctx, "none"), n.shim.RemovePod(n.ctx, "none")} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := n.shim.call(n.ctx, "no-such-method", struct{}{}, nil); kindOfError(err) != shimapi.KindInvalid {
		t.Errorf("unknown method: %v", err)
	}
}

func TestKillBeforeStart(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	r := n.request(pod, "true")
	if _, err := n.shim.Create(n.ctx, r); err != nil {
		t.Fatal(err)
	}
	if err := n.shim.Kill(n.ctx, &shimapi.KillRequest{ID: r.ID, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if rec := n.exit(r); rec.ExitCode != 137 || rec.Reason != "" {
		t.Errorf("record %+v", rec)
	}
	if err := n.shim.Start(n.ctx, r.ID); kindOfError(err) != shimapi.KindNotRunning {
		t.Errorf("start after the end: %v", err)
	}
}

func TestSharedPIDNamespace(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod(func(r *shimapi.RunPodRequest) { r.NewPID = true })
	pause := n.podRecord(pod).PID
	join := func(_ *shimapi.CreateRequest, s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.PIDNamespace {
				s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", pause)
			}
		}
	}
	r := n.run(pod, "cat /proc/1/comm; (setsid sleep 1000 &) ; exit 5", join)
	rec := n.exit(r)
	if rec.ExitCode != 5 {
		t.Errorf("record %+v", rec)
	}
	if out := n.output(r); !strings.HasPrefix(out, "pause\n") {
		t.Errorf("PID 1 is %q", out)
	}
	for _, dir := range rec.CgroupPaths {
		if left, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil && len(left) > 0 {
			t.Errorf("%s holds %q", dir, left)
		}
	}
	if err := n.shim.Delete(n.ctx, r.ID); err != nil {
		t.Error(err)
	}
}

func TestUserNamespace(t *testing.T) {
	n := newShimNode(t)
	maps := []shimapi.IDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	pod := n.pod(func(r *shimapi.RunPodRequest) {
		r.UIDMaps, r.GIDMaps = maps, maps
		r.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
	})
	if err := os.Chmod(n.dir, 0o755); err != nil { // the container's root must reach its rootfs
		t.Fatal(err)
	}
	pause := n.podRecord(pod).PID
	r := n.run(pod, "id -u; cat /proc/self/uid_map; echo again >/dev/stdout", func(_ *shimapi.CreateRequest, s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/%d/ns/user", pause)})
		m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/stdout", Type: "bind", Source: "/dev/null", Options: []string{"bind"}})
		s.Mounts = s.Mounts[:len(s.Mounts)-1]
	})
	if rec := n.exit(r); rec.ExitCode != 0 {
		t.Errorf("record %+v", rec)
	}
	if out := strings.Fields(n.output(r)); len(out) != 5 || out[0] != "0" || out[2] != "100000" || out[4] != "again" {
		t.Errorf("output %q", out)
	}
}

// TestCgroupOfASandbox: the pod's own cgroup is there from the start. On v2 pause is in it;
// on v1 it is empty, since what looks for it needs only its name.
func TestCgroupOfASandbox(t *testing.T) {
	n := newShimNode(t)
	parent := "berth-test-" + newID()[:8]
	id := n.pod(func(r *shimapi.RunPodRequest) { r.CgroupPath = filepath.Join(parent, r.ID) })
	root, v1 := "/sys/fs/cgroup", filepath.Join("/sys/fs/cgroup", shimapi.SandboxHierarchy)
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	v2 := err == nil
	if !v2 {
		root = v1
	}
	dir := filepath.Join(root, parent, id)
	t.Cleanup(func() {
		if err := errors.Join(os.Remove(dir), os.Remove(filepath.Dir(dir))); err != nil {
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
	if err := n.shim.RemovePod(n.ctx, id); err != nil {
		t.Fatal(err)
	}
}
