package sandbox

import (
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxKeptFiles is how many files of cgroups are kept open in all. Each costs some five KiB of
// the kernel's memory, most of it the buffer that it is read through.
const maxKeptFiles = 4096

// keptCount is how many are open.
var keptCount atomic.Int64

// mostKept leaves seven of eight descriptors to all else.
var mostKept = sync.OnceValue(func() int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int64(min(maxKeptFiles, limit.Cur/8)) //nolint:gosec // at most maxKeptFiles
})

// kept names the files that statistics read of every cgroup in each call. To open one takes
// longer than to read it.
var kept = map[fileKey]bool{
	{"cpuacct", "cpuacct.usage"}:        true,
	{"memory", "memory.usage_in_bytes"}: true,
	{"memory", "memory.limit_in_bytes"}: true,
	{"memory", "memory.stat"}:           true,
	{"", "cpu.stat"}:                    true,
	{"", "memory.current"}:              true,
	{"", "memory.stat"}:                 true,
	{"", "cpu.pressure"}:                true,
	{"", "memory.pressure"}:             true,
	{"", "io.pressure"}:                 true,
}

// fileKey is a file of a cgroup: on v2 the controller is "".
type fileKey struct{ controller, name string }

// keptFiles keeps files of one cgroup open, from its first statistics to its end. The zero
// value keeps none yet. Its methods may be called concurrently.
type keptFiles struct {
	mu     sync.RWMutex // read-locked while a file is read, so that none is closed then
	fds    map[fileKey]int
	closed bool
}

// close closes the files; no others are kept after it.
func (k *keptFiles) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, fd := range k.fds {
		_ = unix.Close(fd) // it was only read
	}
	keptCount.Add(-int64(len(k.fds)))
	k.fds, k.closed = nil, true
}

// read reads a file at its path, or through its descriptor that was kept. One whose cgroup was
// removed, and maybe made again, is opened anew.
func (k *keptFiles) read(key fileKey, path string, into []byte) (int, error) {
	k.mu.RLock()
	fd, ok := k.fds[key]
	var n int
	var err error
	if ok {
		n, err = unix.Pread(fd, into, 0)
	}
	k.mu.RUnlock()
	if ok && err == nil {
		return n, nil
	}
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		k.replace(key, -1)
		return 0, err
	}
	n, err = unix.Pread(fd, into, 0)
	if err != nil || !k.replace(key, fd) {
		_ = unix.Close(fd) // it was only read
	}
	return n, err
}

// replace keeps fd in place of the one before it, which it closes; -1 is none. It reports
// whether fd is kept.
func (k *keptFiles) replace(key fileKey, fd int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if before, ok := k.fds[key]; ok {
		_ = unix.Close(before) // it was only read
		delete(k.fds, key)
		keptCount.Add(-1)
	}
	if fd < 0 || k.closed {
		return false
	}
	if keptCount.Add(1) > mostKept() {
		keptCount.Add(-1)
		return false
	}
	if k.fds == nil {
		k.fds = make(map[fileKey]int)
	}
	k.fds[key] = fd
	return true
}

// texts are buffers for whole files.
var texts = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// text is read for a file that fits a buffer, as those kept do; "" when it can't be read. The
// kernel makes such a file up at the first read, so that a shorter one has all of it.
func (k *keptFiles) text(key fileKey, path string) string {
	buf := texts.Get().(*[16 << 10]byte) // the pool has nothing else
	defer texts.Put(buf)
	n, err := k.read(key, path, buf[:])
	switch {
	case err != nil:
		return ""
	case n == len(buf):
		return readText(path)
	}
	return string(buf[:n])
}

// maxText bounds a file that is read as a whole: those who administer a pod's network can give
// it any number of interfaces, each with a line of about 130 bytes.
const maxText = 1 << 20

// readText reads a file whose size the kernel decides, up to maxText; "" when it can't be read.
func readText(path string) string {
	var text []byte
	if err := eachPiece(path, func(piece []byte) bool {
		text = append(text, piece...)
		return len(text) < maxText
	}); err != nil {
		return ""
	}
	return string(text)
}

// eachPiece hands over a file in pieces until do says no. Unlike package os it does not have
// the file watched by the poller, which takes longer than all else: those of cgroups can be
// polled.
func eachPiece(path string, do func([]byte) bool) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := texts.Get().(*[16 << 10]byte) // the pool has nothing else
	defer texts.Put(buf)
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || n == 0:
			return err
		case !do(buf[:n]):
			return nil
		}
	}
}
