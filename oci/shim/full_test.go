package shim_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/test/shimnode"
)

// TestEndsWhileTheDiskIsFull: the exit code of a container that ends while its record can't be
// written is on disk once there is room, for who comes after the shim. Until then the cgroup, whose
// counters that one would read, stays.
func TestEndsWhileTheDiskIsFull(t *testing.T) {
	n := shimnode.New(t)
	disk := n.Mkdir("pods")
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	pod := n.Pod()
	r := n.Run(pod, "read go; exit 3", shimnode.WithStdin(false))
	c := n.Attach(r)
	kept := n.Run(pod, "read go; exit 4", shimnode.WithStdin(false))
	cgroup := anyOf(shimnode.ReadRecord(t, kept.Dir).CgroupPaths)
	other := n.Attach(kept)
	fill := filepath.Join(disk, "fill")
	if err := os.WriteFile(fill, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if _, err := c.In.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	if e := n.Seen.Await(t, shimapi.EventExited, r.ID); e.Record.ExitCode != 3 {
		t.Errorf("told %+v, want code 3", e.Record)
	}
	if _, err := other.In.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	n.Seen.Await(t, shimapi.EventExited, kept.ID)
	if rec := shimnode.ReadRecord(t, r.Dir); rec.Status != shimapi.StatusRunning {
		t.Fatalf("written while the disk was full: %+v", rec)
	}
	if err := n.Shim.Delete(n.Ctx, r.ID); err != nil { // as the stop of its pod does
		t.Fatal(err)
	}
	if !shimnode.OnDisk(cgroup) {
		t.Error("the cgroup is gone before the record is there")
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	shimnode.Eventually(t, "the cgroup is gone", func() bool { return !shimnode.OnDisk(cgroup) })
	shimnode.Eventually(t, "the end is on disk", func() bool {
		var rec shimapi.Record
		err := atomicfile.Read(filepath.Join(r.Dir, shimapi.RecordName), &rec)
		return err == nil && rec.Status == shimapi.StatusStopped && rec.ExitCode == 3
	})
}

// anyOf is one of the directories of a cgroup.
func anyOf(paths map[string]string) string {
	for _, dir := range paths {
		return dir
	}
	return ""
}
