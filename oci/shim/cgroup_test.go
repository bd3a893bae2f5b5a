package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci/shimapi"
)

// TestSessionCgroup: the names of this release and of those before lead back to the session.
func TestSessionCgroup(t *testing.T) {
	for _, name := range []string{sessionCgroup("ab12"), "exec-ab12"} {
		if got := sessionOf(name); got != "ab12" {
			t.Errorf("%s is of session %q", name, got)
		}
	}
	if name := sessionCgroup("ab12"); filepath.Ext(name) != ".mount" {
		t.Errorf("cAdvisor takes %q for a container", name)
	}
}

// TestEmptiedCgroups: those that a runtime makes without a process in them are found by the
// path, and removed with what is below; a scope is left to systemd, in its own hierarchies.
func TestEmptiedCgroups(t *testing.T) {
	name := "berth-emptied-" + filepath.Base(t.TempDir())
	for path, staysWithSystemd := range map[string]bool{"/" + name: false, "/" + name + ".scope": true} {
		g := groupsAt(path)
		if len(g) == 0 {
			t.Fatal("no hierarchies")
		}
		for _, dir := range g {
			t.Cleanup(func() { _ = os.Remove(dir) })
			if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
				t.Fatal(err)
			}
			if staysWithSystemd {
				t.Cleanup(func() { _ = os.Remove(filepath.Join(dir, "below")) })
			}
		}
		g.removeEmptied(time.Second)
		for controller, dir := range g {
			_, err := os.Stat(dir)
			stays := staysWithSystemd && (controller == "" || controller == "name=systemd")
			if gone := errors.Is(err, fs.ErrNotExist); gone == stays {
				t.Errorf("%s: %s is gone: %t, want %t", controller, dir, gone, !stays)
			}
		}
	}
	if g := groupsAt("slice:berth:id"); g != nil {
		t.Errorf("of a systemd path %v", g)
	}
}

// TestReclaimWithoutItsCgroup: a container that is not where it was to be may run elsewhere, so
// its bundle stays for the next try. If its end was told, there is nothing to be looked for.
func TestReclaimWithoutItsCgroup(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	spec := `{"process":{"cwd":"/"},"root":{"path":"rootfs"},"linux":{"cgroupsPath":"/berth-none-` + filepath.Base(dir) + `"}}`
	if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	b := shimapi.Bundle{ID: "c", Dir: dir}
	if err := reclaimCgroup(b); err == nil {
		t.Error("a container that may run elsewhere is taken for ended")
	}
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	b.Ended = true
	if err := reclaimCgroup(b); err != nil {
		t.Errorf("a container that has ended: %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its bundle is left: %v", err)
	}
	for want, r := range map[bool]shimapi.Record{true: {Status: shimapi.StatusStopped}, false: {Status: shimapi.StatusStopped, Reason: shimapi.ReasonUnknown}} {
		if r.EndIsTold() != want {
			t.Errorf("of %+v the end is told: %t", r, !want)
		}
	}
}

// missingForeign is a foreign runtime whose program is not there.
type missingForeign struct{ Foreign }

func (missingForeign) Reclaim(context.Context, shimapi.Bundle) (shimapi.ExitStatus, error) {
	return shimapi.ExitStatus{}, fmt.Errorf("action delete: %w", fs.ErrNotExist)
}

// TestMissingProgramIsAwaitedOnce: the stop of a pod does not wait for it once for each container.
func TestMissingProgramIsAwaitedOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	spec := `{"process":{"cwd":"/"},"root":{"path":"rootfs"},"linux":{"cgroupsPath":"/berth-none-` + filepath.Base(dir) + `"}}`
	b := shimapi.Bundle{ID: "c", Dir: dir, Ended: true, Runtime: shimapi.Runtime{Shim: filepath.Join(dir, "program")}}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		for range 5 {
			if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := reclaimWith(missingForeign{}, b); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < programPatience || took > programPatience+time.Second {
			t.Errorf("five containers took %v", took)
		}
		if err := os.WriteFile(b.Runtime.Shim, nil, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := reclaimWith(missingForeign{}, b); err == nil {
			t.Error("a program that is there again is not asked again")
		}
		if err := os.Remove(b.Runtime.Shim); err != nil {
			t.Fatal(err)
		}
		for _, pause := range []time.Duration{0, programPatience + time.Second} {
			time.Sleep(pause)
			if missing := goneProgram.missingFor(b.Runtime.Shim); missing > time.Second {
				t.Errorf("a program that may have been there a moment ago is missing for %v", missing)
			}
		}
	})
}

// TestCgroupOfAnAssumedEnd: where a container is only taken for ended, its cgroup stays, by which
// it is looked for.
func TestCgroupOfAnAssumedEnd(t *testing.T) {
	path := "/berth-assumed-" + filepath.Base(t.TempDir())
	ctr := &container{task: deadTask{}, asked: path}
	for _, reason := range []string{shimapi.ReasonUnknown, ""} {
		ctr.record = shimapi.Record{Status: shimapi.StatusStopped, Reason: reason}
		for _, dir := range groupsAt(path) {
			t.Cleanup(func() { _ = os.Remove(dir) })
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		ctr.removeCgroups(time.Second)
		for _, dir := range groupsAt(path) {
			if _, err := os.Stat(dir); (err == nil) != (reason == shimapi.ReasonUnknown) {
				t.Errorf("reason %q: %s: %v", reason, dir, err)
			}
		}
	}
}
