package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci/dirtree"
)

const (
	// layerAge is how old the measure of a writable layer may be: the kubelet asks
	// for all of them every ten seconds, and each measure walks a tree.
	layerAge = 10 * time.Second
	// layerRest is how many times as long as a measure took the next one is put off,
	// so that a container with a huge tree gets a fifth of a walk slot at most.
	layerRest = 4
	// layerWalks is how many layers are measured side by side.
	layerWalks = 4
	// layerTime bounds one measure: a container that keeps moving directories ahead
	// of the walk would keep it going.
	layerTime = 5 * time.Minute
	// layerPatience is how long calls wait for a measure from its begin, and one call
	// for those of all its containers. The tree of a usual container takes less.
	layerPatience = 500 * time.Millisecond
)

// layerUsage is the last measure of a writable layer. Measures are made in the
// background, one at a time; no call waits for one longer than its context says.
type layerUsage struct {
	mu      sync.Mutex // held for assignments only
	dir     string
	at      time.Time // when the last measure ended; zero before the first
	took    time.Duration
	usage   dirtree.Usage
	began   time.Time          // when the last measure was asked for
	walking chan struct{}      // closed when the measure in progress ends; nil without one
	cancel  context.CancelFunc // of the measure in progress
	stopped bool               // the layer is being removed
}

// read gives the last measure of the layer dir, and has it made anew when it is old,
// in a place of slots. It waits for a measure that began just now, until ctx ends.
// Without a measure yet, the time is zero.
func (u *layerUsage) read(ctx context.Context, slots chan struct{}, dir string) (time.Time, dirtree.Usage) {
	u.mu.Lock()
	if u.walking == nil && !u.stopped && time.Since(u.at) >= max(layerAge, layerRest*u.took) {
		var walk context.Context
		walk, u.cancel = context.WithCancel(context.Background())
		u.dir, u.began, u.walking = dir, time.Now(), make(chan struct{})
		go u.measure(walk, slots, u.walking)
	}
	walking, patience := u.walking, layerPatience-time.Since(u.began)
	u.mu.Unlock()
	if walking != nil && patience > 0 {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		select {
		case <-walking:
		case <-ctx.Done():
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.at, u.usage
}

// measure walks through the layer and closes done.
func (u *layerUsage) measure(ctx context.Context, slots, done chan struct{}) {
	defer close(done)
	var got dirtree.Usage
	var took time.Duration
	var err error
	select {
	case slots <- struct{}{}:
		ctx, end := context.WithTimeout(ctx, layerTime)
		begin := time.Now()
		got, err = dirtree.Measure(ctx, u.dir)
		took = time.Since(begin)
		end()
		<-slots
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cancel()
	u.walking = nil
	if u.stopped {
		return
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.Background().Error(err, "A writable layer was measured in part only", "dir", u.dir)
		got = dirtree.Usage{Bytes: max(got.Bytes, u.usage.Bytes), Inodes: max(got.Inodes, u.usage.Inodes)}
	}
	u.at, u.took, u.usage = time.Now(), took, got
}

// stop ends the measuring of a layer that is going to be removed.
func (u *layerUsage) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stopped = true
	if u.walking != nil {
		u.cancel()
	}
}

// writableLayer tells what du would of a container's upper directory; nil before it
// was measured.
func (u *statistics) writableLayer(ctx context.Context, c *Container) *runtimeapi.FilesystemUsage {
	at, usage := c.layer.read(ctx, u.layerWalks, filepath.Join(u.paths.containerDir(c.pod.id, c.id), "upper"))
	if at.IsZero() {
		return nil
	}
	return &runtimeapi.FilesystemUsage{
		Timestamp: at.UnixNano(),
		FsId:      &runtimeapi.FilesystemIdentifier{Mountpoint: u.paths.root},
		UsedBytes: u64(usage.Bytes), InodesUsed: u64(usage.Inodes),
	}
}
