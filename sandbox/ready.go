package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"berth/oci/shims"
)

const (
	// diskAge is how old the last look at the disk may be. The kubelet asks every five
	// seconds.
	diskAge = 2 * time.Second
	// diskPatience is how long a look may take before the disk counts as hanging.
	diskPatience = 2 * time.Second
	// shimPause is the least time between two tries to start a shim only in order to
	// see whether that works again, shimPatience how long one may take.
	shimPause    = 5 * time.Second
	shimPatience = 10 * time.Second
)

// health is what is known of whether containers can run on this node.
type health struct {
	paths layout
	shims *shims.Set
	mu    sync.Mutex // held for assignments only

	dirs    map[string]fs.FileInfo // as they were when the daemon began
	disk    error                  // what the last look found
	looked  time.Time              // when it ended
	looking chan struct{}          // closed when the look in progress ends; nil without one

	shim    error // why no shim can be started; nil: the last could
	tried   time.Time
	probing chan struct{} // closed when the try in progress ends; nil without one
}

// newHealth remembers which directories the daemon works in.
func newHealth(paths layout, shims *shims.Set) (*health, error) {
	h := &health{paths: paths, shims: shims, dirs: make(map[string]fs.FileInfo)}
	for _, dir := range []string{paths.podsDir(), paths.podStatesDir()} {
		info, err := os.Stat(dir)
		if err != nil {
			return nil, fmt.Errorf("look at directory: %w", err)
		}
		h.dirs[dir] = info
	}
	return h, nil
}

// Ready is nil, or why no container can run on this node. It waits for the disk for
// two seconds at most.
func (h *health) Ready() error {
	return errors.Join(h.diskReady(), h.shimReady())
}

// newShim finds a shim for a pod and notes whether there is one to be had.
func (h *health) newShim(ctx context.Context, foreign bool) (*shims.Shim, error) {
	if foreign { // says nothing of the shims that most pods need
		return h.shims.ForForeignPod(ctx)
	}
	shim, err := h.shims.ForNewPod(ctx)
	if err == nil || ctx.Err() == nil { // else the caller gave up, which says nothing
		h.noteShim(err)
	}
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	return shim, nil
}

func (h *health) noteShim(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shim, h.tried = err, time.Now()
}

// shimReady tells why no shim can be started. A kubelet that hears it runs no pod any
// more, so that the daemon has to find out by itself when it can again.
func (h *health) shimReady() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shim == nil {
		return nil
	}
	h.probeLocked()
	return fmt.Errorf("no shim can be started, so no pod can run: %w", h.shim)
}

// probe finds out whether a shim can be started, unless that was tried just now.
func (h *health) probe() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.probeLocked()
}

func (h *health) probeLocked() {
	if h.probing == nil && time.Since(h.tried) >= shimPause {
		h.probing = make(chan struct{})
		go h.probeShim(h.probing)
	}
}

func (h *health) probeShim(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), shimPatience)
	defer cancel()
	shim, err := h.shims.ForNewPod(ctx)
	if err == nil || ctx.Err() == nil { // else it says nothing: others may be starting one
		h.noteShim(err)
	}
	if err == nil {
		shim.Release()
		klog.Background().Info("Shims can be started again", "shim", shim.ID())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.probing, h.tried = nil, time.Now()
	close(done)
}

// diskReady tells why no record or container can be written.
func (h *health) diskReady() error {
	h.mu.Lock()
	looking := h.looking
	if looking == nil && time.Since(h.looked) >= diskAge {
		looking = make(chan struct{})
		h.looking = looking
		go h.lookAtDisk(looking)
	}
	h.mu.Unlock()
	if looking != nil {
		timer := time.NewTimer(diskPatience)
		defer timer.Stop()
		select {
		case <-looking:
		case <-timer.C:
			return fmt.Errorf("the file system of %s or %s does not answer: is its disk or server alive?", h.paths.root, h.paths.state)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.disk
}

func (h *health) lookAtDisk(done chan struct{}) {
	var errs error
	for dir, was := range h.dirs { // not changed after the start
		errs = errors.Join(errs, checkDir(dir, was))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disk, h.looked, h.looking = errs, time.Now(), nil
	close(done)
}

// checkDir tells whether a directory is what it was and a file can be written there.
func checkDir(dir string, was fs.FileInfo) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("the directory of the pods is lost: %w: bring it back and restart berthd", err)
	}
	if !os.SameFile(was, info) {
		return fmt.Errorf("%s is not the directory that berthd was started with: something was mounted over it, or it was made anew; undo that, or restart berthd", dir)
	}
	// A file without a name: nothing is left of it, whatever happens.
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		return checkSpace(dir) // a file system without such files
	}
	if err == nil {
		_, err = unix.Write(fd, make([]byte, os.Getpagesize()))
		_ = unix.Close(fd)
	}
	return cantWrite(dir, err)
}

func checkSpace(dir string) error {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	switch {
	case err != nil:
	case st.Flags&unix.ST_RDONLY != 0:
		err = unix.EROFS
	case st.Bfree == 0 || st.Files > 0 && st.Ffree == 0:
		err = unix.ENOSPC
	}
	return cantWrite(dir, err)
}

func cantWrite(dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("nothing can be written below %s: %w: make room there", dir, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("nothing can be written below %s: %w: mount it writable; see the kernel's log for the reason", dir, err)
	default:
		return fmt.Errorf("nothing can be written below %s: %w", dir, err)
	}
}
