package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/dirtree"
	"berth/sandbox/record"
	"berth/test/fewfiles"
)

func layerOf(t *testing.T, u *layerUsage, dir string) dirtree.Usage {
	t.Helper()
	at, usage := u.read(t.Context(), make(chan struct{}, 1), dir)
	if at.IsZero() {
		t.Fatal("not measured")
	}
	return usage
}

func TestLayerUsageIsMeasuredAnewWhenOld(t *testing.T) {
	dir := t.TempDir()
	var u layerUsage
	before := layerOf(t, &u, dir)
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if soon := layerOf(t, &u, dir); soon != before {
		t.Errorf("measured again at once: %+v, then %+v", before, soon)
	}
	u.at = u.at.Add(-layerAge)
	u.took = layerAge
	if soon := layerOf(t, &u, dir); soon != before {
		t.Errorf("a measure that took long was repeated at once: %+v, then %+v", before, soon)
	}
	u.at = u.at.Add(-layerRest * layerAge)
	if later := layerOf(t, &u, dir); later.Bytes < before.Bytes+1<<20 {
		t.Errorf("an old measure was kept: %+v, then %+v", before, later)
	}
}

func TestLayerThatIsRemovedIsNotMeasured(t *testing.T) {
	dir := t.TempDir()
	var u layerUsage
	slots := make(chan struct{}, 1)
	slots <- struct{}{} // a measure waits
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u.read(ctx, slots, dir)
	u.mu.Lock()
	walking := u.walking
	u.mu.Unlock()
	u.stop()
	<-walking
	if at, _ := u.read(t.Context(), slots, dir); !at.IsZero() || u.walking != nil {
		t.Error("measured after its end")
	}
}

// A container makes a tree that takes long to measure, so that every call for stats
// waits for it, and the stats of its neighbours with it.
func TestAttackStatsWaitForAHugeLayer(t *testing.T) {
	u := &statistics{layerWalks: make(chan struct{}, 1), paths: layout{root: t.TempDir()}}
	huge := &Container{id: "huge", pod: &Sandbox{id: "pod"}}
	// A walk that does not end: all places for walks are taken.
	u.layerWalks <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), layerPatience)
	defer cancel()
	begin := time.Now()
	for range 100 { // waits once for all
		if got := u.writableLayer(ctx, huge); got != nil {
			t.Fatalf("measured as %v", got)
		}
	}
	if took := time.Since(begin); took > 10*layerPatience {
		t.Errorf("the calls took %v", took)
	}
	begin = time.Now()
	for range 100 { // it is no longer waited for
		u.writableLayer(t.Context(), huge)
	}
	if took := time.Since(begin); took > layerPatience {
		t.Errorf("later calls took %v", took)
	}
	<-u.layerWalks
	upper := filepath.Join(u.paths.containerDir("pod", "huge"), "upper")
	if err := os.MkdirAll(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	<-huge.layer.idle()
	huge.layer.at = time.Time{}
	if got := u.writableLayer(t.Context(), huge); got.GetInodesUsed().GetValue() != 1 {
		t.Errorf("measured as %v when there was room, want one inode", got)
	}
}

// idle is closed when no measure is in progress.
func (u *layerUsage) idle() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.walking != nil {
		return u.walking
	}
	done := make(chan struct{})
	close(done)
	return done
}

// A container's layer is nested deeper than the daemon may have files open, so that
// the container can never be removed.
func TestAttackLayerTooDeepToRemove(t *testing.T) {
	const depth = 3000
	dir := filepath.Join(t.TempDir(), "ctr")
	mustWrite(t, filepath.Join(dir, record.ContainerFile))
	at := filepath.Join(dir, "upper")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range depth {
		if err == nil {
			err = unix.Mkdirat(fd, "d", 0o755)
		}
		if err == nil {
			up := fd
			fd, err = unix.Openat(up, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			unix.Close(up)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	defer fewfiles.Limit(t, os.Getpid(), 256)()
	if err := eraseDir(t.Context(), dir, record.ContainerFile); err != nil {
		t.Error(err)
	}
	if exists(dir) {
		t.Error("directory is still there")
	}
}

// A container's tree takes so long to remove that a daemon which is started anew in
// the middle of it is not ready for minutes.
func TestAttackStartWaitsForARemoval(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ctr")
	for _, name := range []string{"a", "b", "c"} {
		mustWrite(t, filepath.Join(dir, "upper", name, "file"))
	}
	r := &recovery{finishBy: time.Now()} // there is no time left
	own := newSlot()
	let := make(chan struct{})
	soon(t, "the start", func() {
		err := r.finish(t.Context(), own, func(ctx context.Context) error {
			<-let // as a process does that can't be killed
			return eraseDir(ctx, dir, record.ContainerFile)
		})
		if err != nil {
			t.Error(err)
		}
	})
	if len(own) == 0 {
		t.Error("removed in the background while a call may do so")
	}
	close(let)
	if err := own.take(t.Context()); err != nil { // when the background is done
		t.Fatal(err)
	}
	if exists(dir) {
		t.Error("directory is still there")
	}
}
