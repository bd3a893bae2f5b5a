package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/cgroup"
	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/sandbox/record"
)

// killCgroup ends the members that are listed, and gives up on those that stay listed.
func TestKillCgroupEndsItsMembers(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	group := t.TempDir()
	procs := filepath.Join(group, "below", "cgroup.procs")
	if err := os.Mkdir(filepath.Dir(procs), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(procs, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if pids, err := cgroup.PIDs(group); err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("members %v, %v", pids, err)
	}
	done := make(chan error, 1)
	go func() { done <- killCgroup(map[string]string{"": group}) }()
	_ = cmd.Wait()
	if err := os.WriteFile(procs, nil, 0o644); err != nil { // as the kernel does
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if cmd.ProcessState.Success() {
		t.Error("the member was not killed")
	}
	if err := errors.Join(killCgroup(nil), killCgroup(map[string]string{"memory": t.TempDir()})); err != nil {
		t.Errorf("kill of nothing: %v", err)
	}
}

func TestRemoveEmptiedGroups(t *testing.T) {
	group := t.TempDir()
	if err := os.MkdirAll(filepath.Join(group, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := removeEmptied(map[string]string{"": group, "gone": "/nonexistent/group"}); err != nil || exists(group) {
		t.Errorf("%v, still there: %t", err, exists(group))
	}
}

func TestCgroupOfAContainer(t *testing.T) {
	pod := strings.Repeat("ab", 32)
	systemd := oci.Host{SystemdCgroup: true}
	for _, tt := range []struct {
		host         oci.Host
		parent, want string
	}{
		{oci.Host{}, "", "/berth-" + pod[:13] + "/ctr"},
		{oci.Host{}, "/kubepods/pod1", "/kubepods/pod1/ctr"},
		{systemd, "", "/system.slice/berth-ctr.scope"},
		{systemd, "kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice/berth-ctr.scope"},
		{systemd, "/kubepods.slice/kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice/berth-ctr.scope"},
		{systemd, "/kubepods/pod1", "/kubepods/pod1/ctr"}, // made before the driver was changed
	} {
		rec := &podRecord{Pod: record.Pod{ID: pod}, config: withCgroupParent(&runtimeapi.PodSandboxConfig{}, tt.parent)}
		if got := containerCgroup(tt.host, rec, "ctr"); got != tt.want {
			t.Errorf("below %q with systemd %t: %s, want %s", tt.parent, tt.host.SystemdCgroup, got, tt.want)
		}
	}
}

// A container whose creation was cut off before the shim had written its cgroups down is found
// by their name, and killed, with the systemd driver, too.
func TestOrphanWithoutCgroupsOnRecordIsKilled(t *testing.T) {
	for name, systemd := range map[string]bool{"cgroupfs": false, "systemd": true} {
		t.Run(name, func(t *testing.T) {
			n := newFakeNode(t)
			n.end()
			n.host.CgroupV2, n.host.SystemdCgroup = exists(filepath.Join(cgroupRoot, "cgroup.procs")), systemd
			n.begin()
			cfg := podConfig("a")
			cfg.Linux.CgroupParent = "berthtest-orphan.slice"
			pod, err := n.m.RunPod(t.Context(), cfg, "")
			if err != nil {
				t.Fatal(err)
			}
			c := n.m.containerByID(n.run(pod, "c"))
			scope := map[bool]string{false: "berthtest-orphan.slice/" + c.id, true: "berthtest.slice/berthtest-orphan.slice/berth-" + c.id + ".scope"}[systemd]
			ended := processIn(t, n.host, scope)
			if err := n.m.recovery.teardown.killOrphan(c); err != nil {
				t.Error(err)
			}
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Error("the process in the cgroup of the container was not killed")
			}
		})
	}
}

// processIn starts a process in a cgroup, in one hierarchy. ended is closed with its end.
func processIn(t *testing.T, h oci.Host, cgroup string) (ended <-chan struct{}) {
	t.Helper()
	root := filepath.Join(cgroupRoot, "pids")
	if h.CgroupV2 {
		root = cgroupRoot
	}
	dir := filepath.Join(root, cgroup)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skip("needs privilege: ", err)
	}
	process, done := exec.Command("sleep", "600"), make(chan struct{})
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = process.Wait() // it is killed
		close(done)
	}()
	t.Cleanup(func() {
		_ = process.Process.Kill()
		<-done
		for ; dir != root; dir = filepath.Dir(dir) {
			_ = os.Remove(dir)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(process.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	return done
}

func TestCgroupOfAPod(t *testing.T) {
	id := strings.Repeat("ab", 32)
	rec := &podRecord{Pod: record.Pod{ID: id}, config: &runtimeapi.PodSandboxConfig{}}
	systemd := oci.Host{SystemdCgroup: true}
	for _, tt := range []struct {
		host         oci.Host
		parent, want string
	}{
		{oci.Host{}, "", "/berth-" + id[:13]}, {systemd, "", "system.slice"},
		{oci.Host{}, "/kubepods/pod1", "/kubepods/pod1"}, {systemd, "kubepods-pod1.slice", "kubepods-pod1.slice"},
	} {
		rec.config = withCgroupParent(rec.config, tt.parent)
		if got := cgroupParent(tt.host, rec); got != tt.want {
			t.Errorf("parent %q with systemd %t: %s, want %s", tt.parent, tt.host.SystemdCgroup, got, tt.want)
		}
	}
	if got := sandboxCgroup(oci.Host{CgroupV2: true}, "/kubepods/pod1", "p"); got != "kubepods/pod1/p" {
		t.Errorf("pause is cloned into %q", got)
	}
	if got := sandboxCgroup(oci.Host{}, "/x", "p"); got != "x/p" {
		t.Errorf("on v1 the sandbox's cgroup is %q", got)
	}
	if sandboxCgroup(systemd, "x.slice", "p") != "" {
		t.Error("pause has a cgroup where cgroups are systemd's to make")
	}
	dirs := func(h oci.Host, path string) []string {
		got, err := cgroupDirs(h, path)
		if err != nil {
			t.Error(err)
		}
		return got
	}
	if dirs(systemd, "/x") != nil || dirs(oci.Host{CgroupV2: true}, "/") != nil {
		t.Error("cgroups that are not ours to make or remove")
	}
	if got := dirs(oci.Host{CgroupV2: true}, "a/../b"); len(got) != 1 || got[0] != "/sys/fs/cgroup/b" {
		t.Errorf("directories %v", got)
	}
	if top := topMissing(oci.Host{CgroupV2: true}, "/nonexistent-berth/x/y"); top != "/nonexistent-berth" {
		t.Errorf("the highest that is missing: %s", top)
	}
	made := madeCgroups{top: map[string]string{}}
	if err := errors.Join(made.release(oci.Host{CgroupV2: true}, "/nonexistent-berth/x", "/nonexistent-berth"), made.retry(oci.Host{})); err != nil || len(made.top) > 0 {
		t.Errorf("release of what is gone: %v, left %v", err, made.top)
	}
}

// The score of a pause process is what the daemon may set.
func TestClampOOM(t *testing.T) {
	if got := clampOOM(oci.Host{LowerOOM: true, OOMScoreAdj: 5}, -998); got != -998 {
		t.Errorf("with the capability: %d", got)
	}
	if got := clampOOM(oci.Host{OOMScoreAdj: -100}, -998); got != -100 {
		t.Errorf("without it: %d, want the daemon's own", got)
	}
}

func TestHostname(t *testing.T) {
	own, none, host := networked("a"), networked("a"), podConfig("a")
	none.Hostname, host.Hostname = "", "ignored"
	for _, tt := range []struct {
		cfg  *runtimeapi.PodSandboxConfig
		want string
	}{{own, "host-a"}, {none, "node"}, {host, "node"}} {
		if got := hostname(tt.cfg, oci.Host{Hostname: "node"}); got != tt.want {
			t.Errorf("hostname %q, want %q", got, tt.want)
		}
	}
}

// Sysctls of an interface are written when the interface is there; without it, or when
// the pause process has been replaced by another process, the pod fails.
func TestLateSysctls(t *testing.T) {
	start, err := shimapi.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	rec := &podRecord{Pod: record.Pod{PausePID: os.Getpid(), PauseStart: start}, netns: "/proc/self/ns/net", config: networked("a")}
	if err := writeLateSysctls(rec, nil); err != nil {
		t.Errorf("none: %v", err)
	}
	late := map[string]string{"net.ipv4.conf.nosuch0.rp_filter": "1"}
	other := *rec
	other.PauseStart++
	wantError(t, "with a pid that was used again", writeLateSysctls(&other, late), ErrState)
	other.PausePID = 1 << 30
	if err := writeLateSysctls(&other, late); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a pause process: %v", err)
	}
	wantError(t, "of an interface that is not there", writeSysctl("net.ipv4.conf.nosuch0.rp_filter", "1"), ErrInvalid)
	wantError(t, "of no name", writeSysctl("net..x", "1"), ErrInvalid)
	wantError(t, "that can't be written", writeSysctl("kernel.version", "x"), ErrInvalid)
}

// A daemon of a full or lost disk says which, also where files without a name are not
// to be had.
func TestCheckDir(t *testing.T) {
	dir := t.TempDir()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(checkDir(dir, info), checkSpace(dir)); err != nil {
		t.Error(err)
	}
	wantReason(t, "gone", checkDir(filepath.Join(dir, "x"), info), "lost")
	wantReason(t, "another one", checkDir(t.TempDir(), info), "is not the directory")
	wantReason(t, "no disk", checkSpace("/nonexistent"), "nothing can be written")
	for err, want := range map[error]string{unix.ENOSPC: "make room", unix.EDQUOT: "make room", unix.EROFS: "mount it writable", unix.EIO: "nothing can be written"} {
		wantReason(t, err.Error(), cantWrite(dir, err), want)
	}
}

// asDomain gives each refusal of the shim and of the spec the error that fits, and leaves
// others as they are.
func TestErrorsOfTheShim(t *testing.T) {
	other := errors.New("other")
	for err, want := range map[error]error{
		oci.ErrUnsupported: ErrUnsupported, oci.ErrInvalid: ErrInvalid, other: other,
		&shimapi.Error{Kind: shimapi.KindStartFailed}: ErrInvalid, &shimapi.Error{Kind: shimapi.KindNotFound}: ErrNotFound,
		&shimapi.Error{Kind: shimapi.KindNotRunning}: ErrState,
		// Another takes over: the client may try again.
		fmt.Errorf("shim: %w", shims.ErrGone): ErrNotReady,
	} {
		wantError(t, err.Error(), asDomain(err), want)
	}
	if asDomain(nil) != nil {
		t.Error("an error of none")
	}
	var rec podRecord
	rec.ShimID = "none"
	orphan := newSandbox("", rec)
	if _, err := orphan.shimIn(&shims.Set{}); !errors.Is(err, ErrNotReady) || !errors.Is(err, shims.ErrGone) {
		t.Errorf("a call that finds no shim fails with %v", err)
	}
	internal := &shimapi.Error{Kind: shimapi.KindInternal, Message: "bug"}
	if got := asDomain(internal); !errors.Is(got, internal) || errors.Is(got, ErrInvalid) {
		t.Errorf("an internal error became %v", got)
	}
	if err := failed(ErrExists, "pod %s exists", "p"); !errors.Is(err, ErrExists) || err.Error() != "pod p exists" {
		t.Errorf("%v: the kind is matched, not printed", err)
	}
}

// The program in containers that need one of berth's own.
func TestUseProgram(t *testing.T) {
	with := &runtimeapi.PodSandboxConfig{Annotations: map[string]string{InitAnnotation: "true"}}
	bytes := &runtimeapi.ContainerConfig{Envs: []*runtimeapi.KeyValue{{Key: "K", Value: []byte{0xff}}}}
	for name, tt := range map[string]struct {
		pod         *runtimeapi.PodSandboxConfig
		ctr         *runtimeapi.ContainerConfig
		init, bytes bool
	}{
		"none": {&runtimeapi.PodSandboxConfig{}, &runtimeapi.ContainerConfig{}, false, false},
		"init": {with, &runtimeapi.ContainerConfig{}, true, false}, "variables": {&runtimeapi.PodSandboxConfig{}, bytes, false, true},
		"both": {with, bytes, true, true},
	} {
		ctr := oci.Container{Config: tt.ctr}
		uses := useProgram(&ctr, tt.pod, layout{root: "/root"})
		if uses != (tt.init || tt.bytes) || (ctr.Init != "") != tt.init || (ctr.Bytes != "") != tt.bytes {
			t.Errorf("%s: uses it: %v, init %q, bytes %q", name, uses, ctr.Init, ctr.Bytes)
		}
	}
}
