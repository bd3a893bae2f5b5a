package sandbox

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/sandbox/record"
	"berth/test/fewfiles"
)

func mustWrite(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// What blocks a removal must leave the record, so that it is found again.
func TestEraseDirKeepsTheRecordToTheEnd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pod")
	mustWrite(t, filepath.Join(dir, record.PodFile))
	mustWrite(t, filepath.Join(dir, "zz", "stuck"))
	mountpoint := filepath.Join(dir, "zz")
	if err := unix.Mount("none", mountpoint, "tmpfs", 0, "size=4k"); err != nil {
		t.Skipf("mount: %v", err)
	}
	if err := eraseDir(t.Context(), dir, record.PodFile); err == nil {
		t.Error("a busy directory was erased")
	}
	if !exists(filepath.Join(dir, record.PodFile)) {
		t.Error("the record went before the rest")
	}
	if err := unix.Unmount(mountpoint, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // idempotent
		if err := eraseDir(t.Context(), dir, record.PodFile); err != nil {
			t.Error(err)
		}
	}
	if exists(dir) {
		t.Error("directory is still there")
	}
}

func TestRemoveShellNeverDeletesThroughAMount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ctr")
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", rootfs, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mount: %v", err)
	}
	precious := filepath.Join(rootfs, "precious")
	mustWrite(t, precious)
	if err := removeShell(dir); !errors.Is(err, unix.EBUSY) {
		t.Errorf("removeShell of a mount = %v, want EBUSY", err)
	}
	if !exists(precious) {
		t.Error("a file behind the mount was deleted")
	}
	if err := (kernelMounts{}).Unmount(rootfs); err != nil {
		t.Fatal(err)
	}
	if err := (kernelMounts{}).Unmount(rootfs); err != nil {
		t.Errorf("unmount of what is not mounted: %v", err)
	}
	if err := removeShell(dir); err != nil || exists(dir) {
		t.Errorf("removeShell = %v, still there: %v", err, exists(dir))
	}
	if err := removeShell(dir); err != nil {
		t.Errorf("removeShell of nothing: %v", err)
	}
}

func TestKillPIDKnowsItsProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	start, err := shimapi.StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := killPID(cmd.Process.Pid, start+1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(cmd.Process.Pid, 0); err != nil {
		t.Fatal("a process with another start time was killed")
	}
	enough := fewfiles.Spare(t, 0)
	err = killPID(cmd.Process.Pid, start)
	if enough(); err == nil {
		t.Error("without descriptors a process that lives counts as killed")
	}
	if err := killPID(cmd.Process.Pid, start); err != nil {
		t.Fatal(err)
	}
	<-done
	if err := killPID(cmd.Process.Pid, start); err != nil {
		t.Errorf("kill of what is gone: %v", err)
	}
	if err := killPID(0, 0); err != nil {
		t.Errorf("kill of nothing: %v", err)
	}
}

func TestSubPathStaysInside(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, filepath.Join(dir, "a", "b", "file"))
	for name, to := range map[string]string{"in": "a/b", "out": "/etc", "up": "../.."} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for sub, ok := range map[string]bool{"": true, "a": true, "a/b": true, "in": true, "out": false, "up": false, "../x": false, "/etc": false, "none": false} {
		got, err := subPath(dir, sub)
		if (err == nil) != ok {
			t.Errorf("subPath(%q) = %q, %v", sub, got, err)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("subPath(%q) = %v, want ErrInvalid", sub, err)
		}
	}
}

// unmounts only notes what is unmounted.
type unmounts struct {
	Images
	seen []string
}

func (u *unmounts) Unmount(target string) error {
	u.seen = append(u.seen, filepath.Base(target))
	return nil
}

// A daemon that dies between a mount and its record must not leave the mount.
func TestVolumesAreFoundWithoutARecord(t *testing.T) {
	images := &unmounts{}
	td := &teardown{paths: layout{state: t.TempDir()}, images: images}
	if err := td.unmountVolumes("none"); err != nil || len(images.seen) > 0 {
		t.Errorf("a container without volumes: %v, %v", images.seen, err)
	}
	mustWrite(t, filepath.Join(td.paths.imageVolumesDir("ctr"), "0", "file"))
	mustWrite(t, filepath.Join(td.paths.imageVolumesDir("ctr"), "3", "file"))
	if err := td.unmountVolumes("ctr"); err != nil || !slices.Equal(images.seen, []string{"0", "3"}) {
		t.Errorf("unmounted %v, %v", images.seen, err)
	}
}

// An image volume's sub-path names a FIFO, so that CreateContainer waits for a
// writer for ever, or a device, which would act when it is opened.
func TestAttackSubPathOfAnotherKind(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, filepath.Join(dir, "file"))
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "device": unix.S_IFCHR} {
		if err := unix.Mknod(filepath.Join(dir, name), mode|0o666, int(unix.Mkdev(1, 5))); err != nil {
			t.Skip("needs privilege: ", err)
		}
		if err := os.Symlink(name, filepath.Join(dir, "to-"+name)); err != nil {
			t.Fatal(err)
		}
		for _, sub := range []string{name, "to-" + name} {
			done := make(chan error, 1)
			go func() {
				_, err := subPath(dir, sub)
				done <- err
			}()
			select {
			case err := <-done:
				if !errors.Is(err, ErrInvalid) {
					t.Errorf("%s: %v, want ErrInvalid", sub, err)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: blocked", sub)
			}
		}
	}
	if got, err := subPath(dir, "file"); err != nil || got != filepath.Join(dir, "file") {
		t.Errorf("a regular file: %q, %v", got, err)
	}
}

// What can't be read for want of descriptors may tell of an end: a container is not called lost
// by it, nor without a cgroup.
func TestNothingIsLostForWantOfDescriptors(t *testing.T) {
	n := newFakeNode(t)
	c := n.m.index.containerByID(n.run(n.pod("a"), "c"))
	td := n.m.recovery.teardown
	enough := fewfiles.Spare(t, 0)
	err := td.refreshFact(c)
	_, gerr := cgroupDirs(oci.Host{}, "/berth-none")
	exists := cgroupExists(oci.Host{}, "/berth-none")
	enough()
	if !errors.Is(err, unix.EMFILE) || !errors.Is(gerr, unix.EMFILE) || !exists {
		t.Errorf("without descriptors: the record %v, the cgroups %v, there %v; want EMFILE twice, and there", err, gerr, exists)
	}
	if err := td.refreshFact(c); err != nil {
		t.Error(err)
	}
}

// TestTheLastWordOfAShim: the end of a container that its shim has forgotten is told by an event
// on its way, where the disk had no room for the record.
func TestTheLastWordOfAShim(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	n.shim.onCall(func(method, _ string) *shimapi.Error {
		if method != shimapi.MethodKill {
			return nil
		}
		time.AfterFunc(100*time.Millisecond, func() { // an event is slower than an answer here
			n.shim.mu.Lock()
			defer n.shim.mu.Unlock()
			ended := n.shim.containers[id].Record
			ended.Status, ended.ExitCode, ended.FinishedAt = shimapi.StatusStopped, 7, time.Now()
			n.shim.tell(shimapi.EventExited, ended)
		})
		return &shimapi.Error{Kind: shimapi.KindNotFound, Message: "deleted"}
	})
	if err := n.m.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if st := n.container(id); st.State != ctrExited || st.ExitCode != 7 {
		t.Errorf("it is %v with code %d, want exited with 7", st.State, st.ExitCode)
	}
}

// TestRemoveShellsTogether: a stop of a pod and a removal of its container may remove the same
// mount points at the same time.
func TestRemoveShellsTogether(t *testing.T) {
	for range 200 {
		dir := filepath.Join(t.TempDir(), "container")
		if err := os.MkdirAll(filepath.Join(dir, "images", "0"), 0o700); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error)
		for range 8 {
			go func() { errs <- removeShell(dir) }()
		}
		for range 8 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
}
