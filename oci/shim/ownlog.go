package shim

import (
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLog is how large the log of the shim itself gets, in bytes: it is on a file system in
// memory, and the shim may live for years.
const maxLog = 4 << 20

// ownLog writes lines to the log of the shim itself, and empties that when it would get larger
// than most. The size is asked of the file: others write to it as well, such as Go's runtime and
// the shims that this one has replaced.
type ownLog struct {
	file *os.File
	most int64

	mu sync.Mutex
}

// boundLog bounds a log that can be emptied below its writers, as they append to it. What else the
// shim was given, such as a terminal, is left alone.
func boundLog(f *os.File, most int64) io.Writer {
	info, err := f.Stat()
	flags, ferr := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || ferr != nil || !info.Mode().IsRegular() || flags&unix.O_APPEND == 0 {
		return f
	}
	return &ownLog{file: f, most: most}
}

// Write implements [io.Writer].
func (l *ownLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if info, err := l.file.Stat(); err == nil && info.Size()+int64(len(line)) > l.most {
		l.empty(info.Size())
	}
	return l.file.Write(line)
}

// empty is called with mu held.
func (l *ownLog) empty(size int64) {
	err := l.file.Truncate(0)
	own := slog.New(slog.NewTextHandler(l.file, nil))
	if err != nil {
		own.Error("log is too large and can't be emptied", "bytes", size, "error", err)
		return
	}
	own.Warn("log was emptied, since it was too large", "bytes", size)
}
