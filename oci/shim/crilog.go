package shim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

const (
	// maxLine is where a line is split, in bytes without its newline, as the
	// other runtimes do; log agents know the number.
	maxLine = 16 << 10
	// timeLayout is RFC 3339 with all nine digits, so that lines sort as text.
	timeLayout = "2006-01-02T15:04:05.000000000Z07:00"
	// batchSize is how much goes to the file in one write, at most.
	batchSize = 64 << 10
)

// logTarget is where a container's log goes, see [shimapi.CreateRequest].
type logTarget struct {
	root   string // "" for the directory of path
	path   string
	limits shimapi.LogLimits
	entry  *entry // of the log in the journal; nil: it has none
}

// logFile is a container's CRI log, shared by its streams. No stream ever waits for a full
// disk: records that can't be written are dropped, counted, and reported in the shim's own
// log.
type logFile struct {
	logTarget
	pace *pace

	mu      sync.Mutex
	file    *os.File
	size    int64  // of the file
	inode   uint64 // of the file
	full    bool   // the limit was met
	dropped uint64 // bytes of records since the last successful write
	missing bool   // it could not be opened when the container was adopted
	tried   time.Time
}

// logRetry is the time to the next try to open a log that is missing.
const logRetry = time.Second

func openLog(to logTarget) (*logFile, error) {
	l := &logFile{logTarget: to, pace: newPace(to.limits.Rate)}
	return l, l.reopen()
}

// resumeLog opens the log of a shim that may have died in the middle of a write. A container that
// runs is not given up for a log that can't be opened, on a full disk for example: its lines are
// dropped until it can. Only what the shim itself lacks, such as descriptors, is an error.
func resumeLog(to logTarget) (*logFile, error) {
	if err := mendLog(to.root, to.path); err != nil {
		slog.Error("torn line stays in the log", "path", to.path, "error", err)
	}
	l, err := openLog(to)
	if err == nil || isOurShortage(err) {
		return l, err
	}
	slog.Error("log can't be opened, lines are dropped until it can", "path", to.path, "error", err)
	l.missing, l.tried = true, time.Now()
	return l, nil
}

// mendLog removes an incomplete record from the end of a log.
func mendLog(root, path string) error {
	f, err := openBelow(root, path, unix.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	tail := make([]byte, min(info.Size(), 2*maxLine)) // longer than any record
	if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil {
		return err
	}
	whole := bytes.LastIndexByte(tail, '\n') + 1
	if whole == 0 && info.Size() > int64(len(tail)) {
		return errors.New("this is no log of ours")
	}
	return f.Truncate(info.Size() - int64(len(tail)-whole))
}

// reopen opens the log at its path again, after the kubelet has renamed or removed the old
// file. Every record is in one of the two files. After an error the old file stays in use.
func (l *logFile) reopen() error {
	f, err := openLogFile(l.root, l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	old, err := l.replace(f)
	l.mu.Unlock()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if old != nil {
		return old.Close()
	}
	return nil
}

// replace makes f the log, and gives the file that was it before; nil: there was none. It is called
// with mu held.
func (l *logFile) replace(f *os.File) (old *os.File, err error) {
	size, inode, err := factsOf(f)
	if err != nil {
		return nil, err
	}
	old = l.file
	l.file, l.size, l.inode, l.full, l.missing = f, size, inode, false, false
	return old, nil
}

// factsOf tells the size and the inode of an open file.
func factsOf(f *os.File) (size int64, inode uint64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	return info.Size(), info.Sys().(*syscall.Stat_t).Ino, nil
}

// logPathFault makes an error that the path itself causes, which no retry mends, one of
// KindInvalid.
func logPathFault(path string, err error) error {
	for _, of := range []error{unix.EISDIR, unix.ENOTDIR, unix.ENAMETOOLONG, unix.ELOOP} {
		if errors.Is(err, of) {
			return fault(shimapi.KindInvalid, "log %s: %v: give log_path the name of a file in a directory", path, err)
		}
	}
	return err
}

// openLogFile opens a regular file only. Pods may be able to write into the
// directory of their logs: a link there would make the shim, as root, append to
// a file elsewhere, and a fifo would hang it.
func openLogFile(root, path string) (*os.File, error) {
	f, err := openBelow(root, path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil, fault(shimapi.KindInvalid, "log %s is a link or a fifo: remove it or give another log_path", path)
	}
	if err != nil {
		return nil, logPathFault(path, fmt.Errorf("open log: %w", err))
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fault(shimapi.KindInvalid, "log %s is no regular file: remove it or give another log_path", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openBelow opens a file below root, where no symbolic link can lead out of root. If the file
// may be created, missing directories are too.
func openBelow(root, path string, flags int) (*os.File, error) {
	if root == "" {
		root = filepath.Dir(path)
	}
	dir, err := filepath.Rel(root, filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if flags&unix.O_CREAT != 0 {
		if err := os.MkdirAll(root, 0o755); err != nil {
			return nil, fmt.Errorf("log directory: %w", err)
		}
	}
	top, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	if flags&unix.O_CREAT != 0 && dir != "." {
		if err := top.MkdirAll(dir, 0o755); err != nil {
			return nil, fault(shimapi.KindInvalid, "directory of log %s: %w: make it one inside %s or give another log_path", path, err, root)
		}
	}
	below, err := top.Open(dir)
	if err != nil {
		return nil, err
	}
	defer below.Close()
	fd, err := unix.Openat(int(below.Fd()), filepath.Base(path), flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.missing = false
	l.entry.release()
	l.entry = nil
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// append appends whole records. It is called with mu held.
func (l *logFile) append(records []byte) {
	if l.missing {
		l.dropped += uint64(len(records))
	}
	if l.file == nil || l.overLimit(records) {
		return
	}
	n, err := l.file.Write(records)
	l.size += int64(n)
	if err == nil {
		if l.dropped > 0 {
			slog.Warn("log takes lines again", "path", l.path, "dropped_bytes", l.dropped)
			l.dropped = 0
		}
		return
	}
	whole := bytes.LastIndexByte(records[:n], '\n') + 1
	l.cut(int64(n - whole))
	l.size -= int64(n - whole)
	if l.dropped == 0 {
		slog.Error("log not written, lines are dropped", "path", l.path, "error", err)
	}
	l.dropped += uint64(len(records) - whole)
}

// openMissing tries now and then to open a log that is missing.
func (l *logFile) openMissing() {
	l.mu.Lock()
	due := l.missing && time.Since(l.tried) >= logRetry
	if due {
		l.tried = time.Now()
	}
	l.mu.Unlock()
	if !due {
		return
	}
	f, err := openLogFile(l.root, l.path)
	if err != nil {
		return // it was told when it was first met
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.missing { // it was not rotated or closed meanwhile
		_, err = l.replace(f)
	}
	if l.file != f || err != nil {
		_ = f.Close() // nothing was written
	}
}

// cut removes an incomplete record from the end of the file, so that the next record starts
// a line.
func (l *logFile) cut(torn int64) {
	if torn == 0 {
		return
	}
	info, err := l.file.Stat()
	if err == nil {
		err = l.file.Truncate(info.Size() - torn)
	}
	if err != nil {
		slog.Error("torn line stays in the log", "path", l.path, "error", err)
	}
}

// buffers are taken while there is output and given back when a stream sleeps, so an idle
// container has none.
var buffers = sync.Pool{New: func() any { b := make([]byte, batchSize); return &b }}

// lineWriter turns one stream into records of a log.
type lineWriter struct {
	stream  string
	log     *logFile
	pending []byte // of a line that is not ended, at most maxLine
	entry   *streamEntry
}

// batch is the records of one piece of output.
type batch struct {
	to     *logFile
	prefix []byte // time and stream, the same for the whole piece
	out    []byte
	size   int // of all records
}

// write takes a piece of output that was read at the time now.
func (w *lineWriter) write(data []byte, now time.Time) { w.writeFrom(-1, data, now) }

// writeFrom takes a piece of output at the time now: one that was read (source is -1) or one that
// is at the head of a source, where it is not any more afterwards.
func (w *lineWriter) writeFrom(source int, data []byte, now time.Time) {
	s := step{w.entry, source, data}
	w.log.openMissing()
	w.log.pace.wrote(w.append(s, data, now), time.Now())
	s.takeOut() // it may wait for the container, and what the streams share is not locked
}

// append appends the records of a piece of output to the log, and tells their size. The log is
// locked for the whole of a piece, so that a piece can be undone.
func (w *lineWriter) append(s step, data []byte, now time.Time) int {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b := w.batch((*buf)[:0], now)
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	s.begin(w.log.inode, w.log.size)
	added := 0
	for len(data) > 0 {
		line, rest, whole := bytes.Cut(data, []byte{'\n'})
		data = rest
		for len(w.pending)+len(line) > maxLine {
			n := maxLine - len(w.pending)
			b.add('P', w.pending, line[:n])
			w.pending, line = w.pending[:0], line[n:]
		}
		if !whole {
			w.pending, added = append(w.pending, line...), len(line)
			break
		}
		b.add('F', w.pending, line)
		w.pending = w.pending[:0]
	}
	b.flush()
	if len(w.pending) == 0 {
		w.pending = nil
	}
	s.keep(w.pending, added)
	s.wrote()
	return b.size
}

// end writes the last line if it has no newline. It is tagged P (partial), as containerd does
// it, so that the reader adds no newline that the container did not write.
func (w *lineWriter) end(now time.Time) {
	if len(w.pending) == 0 {
		return
	}
	s := step{w.entry, -1, nil}
	b := w.batch(nil, now)
	w.log.openMissing()
	w.log.mu.Lock()
	s.begin(w.log.inode, w.log.size)
	b.add('P', w.pending, nil)
	b.flush()
	s.wrote()
	w.log.mu.Unlock()
	w.log.pace.wrote(b.size, now)
	w.pending = nil
	s.takeOut()
}

// rest is called when no output comes for now; w may be nil.
func (w *lineWriter) rest() {
	if w != nil && w.entry != nil && len(w.pending) == 0 {
		w.entry.empty()
	}
}

func (w *lineWriter) batch(out []byte, now time.Time) *batch {
	prefix := now.UTC().AppendFormat(make([]byte, 0, 48), timeLayout)
	prefix = append(append(append(prefix, ' '), w.stream...), ' ')
	return &batch{to: w.log, prefix: prefix, out: out}
}

func (b *batch) add(tag byte, head, tail []byte) {
	size := len(b.prefix) + 2 + len(head) + len(tail) + 1
	if len(b.out) > 0 && len(b.out)+size > cap(b.out) {
		b.flush()
	}
	b.out = append(b.out, b.prefix...)
	b.out = append(b.out, tag, ' ')
	b.out = append(append(b.out, head...), tail...)
	b.out = append(b.out, '\n')
}

func (b *batch) flush() {
	if len(b.out) > 0 {
		b.to.append(b.out)
		b.size += len(b.out)
		b.out = b.out[:0]
	}
}

// readSome waits in Go's poller until there is output, takes a buffer only then, and passes
// the output to a function. read gets the file's descriptor, and tells where the output still is:
// source is that descriptor, or -1 if the output was read. The error is io.EOF at the end, also for
// a terminal.
func readSome(f *os.File, read func(fd int, buf []byte) (n, source int, err error), use func(source int, data []byte)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		var source int
		n, rerr := ignoringEINTR(func() (n int, err error) {
			n, source, err = read(int(fd), *buf)
			return n, err
		})
		switch {
		case errors.Is(rerr, unix.EAGAIN):
			return false
		case errors.Is(rerr, unix.EIO) || (rerr == nil && n == 0):
			readErr = io.EOF
		case rerr != nil:
			readErr = rerr
		default:
			use(source, (*buf)[:n])
		}
		return true
	})
	if err != nil {
		return err
	}
	return readErr
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
