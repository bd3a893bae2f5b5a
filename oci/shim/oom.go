package shim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
	"berth/oci/shimapi"
)

// oomCounter counts what the OOM killer has killed in a container's cgroup. On v2 systemd
// removes the cgroup as soon as its last process has ended, perhaps before the shim has read
// the counter. But a v2 cgroup also counts for removed cgroups below it, so the parent's
// counter still has the kills.
type oomCounter struct {
	own    string // "" when the host does not count memory
	parent string // "" on v1, where a cgroup stays until we remove it

	mu       sync.Mutex
	last     uint64 // of own
	others   uint64 // what parent counted besides, when last was read
	reported uint64 // kills that were published
	before   uint64 // kills before the shim itself sent SIGKILL
	killed   bool   // the shim itself sent SIGKILL
	told     uint64 // kills that a foreign shim has reported, where own is ""
}

func newOOMCounter(g group) *oomCounter {
	c := &oomCounter{}
	if len(g) == 0 {
		return c // of a runtime that keeps its containers elsewhere
	}
	if dir := g[""]; unified() {
		c.own, c.parent = filepath.Join(dir, "memory.events"), filepath.Join(filepath.Dir(dir), "memory.events")
	} else if dir := g["memory"]; dir != "" {
		c.own = filepath.Join(dir, "memory.oom_control")
	}
	c.kills() // notes what the parent counted before
	return c
}

// kills is the number of processes killed until now, also after the cgroup's end.
func (c *oomCounter) kills() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == "" {
		return c.told
	}
	all, known := readOOMKills(c.parent)
	n, ok := readOOMKills(c.own)
	switch {
	case ok:
		c.last, c.others = n, all-min(all, n)
	case known:
		c.last = max(c.last, all-min(all, c.others))
	}
	return c.last
}

// noteReported counts a kill that a foreign shim has reported.
func (c *oomCounter) noteReported() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told++
}

// fresh returns the kills if there are more than it has returned before.
func (c *oomCounter) fresh() (kills uint64, more bool) {
	kills = c.kills()
	c.mu.Lock()
	defer c.mu.Unlock()
	more = kills > c.reported
	c.reported = max(c.reported, kills)
	return kills, more
}

// noteKill is called before the shim sends SIGKILL to the container: earlier kills by the
// OOM killer are not the reason of that death.
func (c *oomCounter) noteKill() {
	kills := c.kills()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before, c.killed = kills, true
}

// explains reports whether a container ended because the OOM killer was active in its
// cgroup. Exit code 137 without a signal is how a shell or an init reports that its child was
// killed by SIGKILL, which may also have come from a stop.
func (c *oomCounter) explains(exit shimapi.ExitStatus, kills uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kills <= c.before || exit.Code != 128+int(unix.SIGKILL) {
		return false
	}
	return exit.Signal == int(unix.SIGKILL) || !c.killed
}

// readOOMKills reads the counter of memory.events or memory.oom_control.
func readOOMKills(path string) (n uint64, ok bool) { return cgroup.Counter(path, "oom_kill") }

// oomWatcher reports that the OOM killer was active in a cgroup: on v2 by one inotify for all
// containers, on v1 by an eventfd for each, which a [sleeper] waits for.
type oomWatcher struct {
	inotify *os.File // nil on v1
	mu      sync.Mutex
	byWatch map[int32]func()
}

func newOOMWatcher() (*oomWatcher, error) {
	if !unified() {
		return &oomWatcher{}, nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify for OOM events: %w", err)
	}
	w := &oomWatcher{inotify: os.NewFile(uintptr(fd), "inotify"), byWatch: map[int32]func(){}}
	go w.run()
	return w, nil
}

func (w *oomWatcher) close() error {
	if w.inotify == nil {
		return nil
	}
	return w.inotify.Close() // ends run
}

// run ends when the inotify is closed.
func (w *oomWatcher) run() {
	var buf [4096]byte
	for {
		n, err := w.inotify.Read(buf[:])
		if err != nil {
			return
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			watch := int32(binary.NativeEndian.Uint32(buf[at:]))
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
			w.mu.Lock()
			changed := w.byWatch[watch]
			w.mu.Unlock()
			if changed != nil {
				changed()
			}
		}
	}
}

// watch calls changed, from a goroutine of its own, when the OOM killer may have killed in g.
// The counter tells whether it has. stop ends the calls.
func (w *oomWatcher) watch(g group, changed func()) (stop func(), err error) {
	if w.inotify == nil {
		return watchV1(g["memory"], changed)
	}
	watch, err := unix.InotifyAddWatch(int(w.inotify.Fd()), filepath.Join(g[""], "memory.events"), unix.IN_MODIFY)
	if err != nil {
		return nil, fmt.Errorf("watch memory.events: %w", err)
	}
	id := int32(watch)
	w.mu.Lock()
	w.byWatch[id] = changed
	w.mu.Unlock()
	return func() {
		w.mu.Lock()
		delete(w.byWatch, id)
		w.mu.Unlock()
		_, _ = unix.InotifyRmWatch(int(w.inotify.Fd()), uint32(id)) // an error: it went with the cgroup
	}, nil
}

// watchContainer watches a container. If that fails, only its events are missing, since the
// kills are counted at its end as well.
func (w *oomWatcher) watchContainer(ctr *container) (stop func()) {
	stop, err := w.watch(ctr.groups, ctr.countOOMs)
	if err != nil {
		slog.Warn("OOM events are not watched", "container", ctr.id, "error", err)
		return func() {}
	}
	return stop
}

// watchV1 makes the kernel count into an eventfd whenever the cgroup runs out of memory. That
// is before the victim is chosen, so the counter of kills rises a little later. There is no
// event for that, so changed is called a few times.
func watchV1(memory string, changed func()) (stop func(), err error) {
	if memory == "" {
		return func() {}, nil
	}
	control, err := os.Open(filepath.Join(memory, "memory.oom_control"))
	if err != nil {
		return nil, fmt.Errorf("watch for OOM: %w", err)
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch for OOM: %w", err)
	}
	event := os.NewFile(uintptr(fd), "eventfd")
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(memory, "cgroup.event_control"), []byte(line), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("watch for OOM: %w", err), event.Close())
	}
	var idle *watch
	serve := func() {
		var count [8]byte
		for again := true; again; again = !idle.arm() {
			if _, err := event.Read(count[:]); err != nil {
				return // closed by stop
			}
			for _, later := range []time.Duration{0, 10 * time.Millisecond, 100 * time.Millisecond} {
				time.Sleep(later)
				changed()
			}
		}
	}
	idle = sleepers().watch(event, serve)
	if !idle.arm() {
		go serve()
	}
	return func() {
		idle.stop()
		_ = event.Close() // ends serve
	}, nil
}
