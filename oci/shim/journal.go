package shim

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// journal is a file by which a shim that replaces a killed one learns how far each log got. Output
// stays in the container's pipe until it is in the log (peek), so that a kill loses none of it;
// and the journal tells whether a piece was written and taken out of the pipe, so that none is
// logged twice. Each log has an entry.
//
// The file is in the shim's directory. It is mapped, because a note in it must cost no system call
// and must be there after a kill; it need not be there after a reboot, which ends the containers.
// It consists of equal parts. A part begins with a page of entries, which is allocated so that no
// full disk makes the mapped memory fail; behind that page each entry has room for the lines of
// its two streams that are not ended, which is allocated only while there are some.
type journal struct {
	file *os.File

	mu    sync.Mutex
	parts [][]byte // the pages of entries
	used  map[[16]byte]*entry
	free  []*entry
}

const (
	// journalName ends with the version of what is in the file: a shim of another berth may follow
	// one that was killed, and begins with an empty journal if it has another version.
	journalName = "journal.1"
	entrySize   = 128
)

// entryState is an entry as it is in the file. All but id is guarded by the mu of the log.
type entryState struct {
	id [16]byte // of the container, see entryID; zeros: the entry is free

	underWay   atomic.Uint32 // the step is being done
	stream     uint32        // that the step is of: an index, see streamIndex
	taken      uint32        // bytes at the head of the source that the step takes out; 0: it was read
	left       uint32        // bytes of the stream's line that are not ended after the step
	inode      uint64        // of the log that the step writes; 0: it writes none
	before     int64         // size of the log
	after      int64         // size of the log once the records are whole
	first      byte          // of what the step takes out
	seen       byte          // first's complement until the kernel puts first here as it takes the bytes
	unfinished [2]uint32     // bytes of each stream's line that is not ended
}

var _ [entrySize - unsafe.Sizeof(entryState{})]byte // an entry has room for it

// entry is the place of one log in the journal.
type entry struct {
	*entryState
	journal *journal
	seenAt  []byte // the byte seen, as memory that the kernel writes to
	room    int64  // where in the file the lines are that are not ended
	touched bool   // the room may be allocated
}

// step is a piece of output on its way to the log. It ends as a whole or not at all.
type step struct {
	stream string
	source int    // a descriptor of the pipe that still has data at its head; -1: it was read
	data   []byte // what the step takes out
	left   int    // bytes of the stream's line that are not ended after the step
}

// newJournal opens the journal of a shim that starts. nil: it can't be had, and logs do without.
func newJournal(dir string) *journal {
	if scratches() == nil {
		return nil
	}
	j, err := openJournal(dir)
	if err != nil {
		slog.Error("logs without a journal", "error", err)
		return nil
	}
	return j
}

// openJournal opens the journal of a shim's directory, with the entries of the shim before.
func openJournal(dir string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &journal{file: f, used: map[[16]byte]*entry{}}
	size, _, err := factsOf(f)
	for at := int64(0); err == nil && at < size; at += partSize() {
		err = j.mapPart(at)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open journal: %w", err), j.close())
	}
	return j, nil
}

// partSize is the size of a part of the file, in bytes.
func partSize() int64 {
	page := int64(os.Getpagesize())
	return page + page/entrySize*2*maxLine
}

// mapPart maps the page of entries at a place of the file, and allocates it first. The caller
// holds mu, or is the only one.
func (j *journal) mapPart(at int64) error {
	page := os.Getpagesize()
	fd := int(j.file.Fd())
	if err := unix.Fallocate(fd, 0, at, int64(page)); err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	if size, _, err := factsOf(j.file); err != nil || size < at+partSize() {
		if err := errors.Join(err, unix.Ftruncate(fd, at+partSize())); err != nil {
			return fmt.Errorf("extend: %w", err)
		}
	}
	part, err := unix.Mmap(fd, at, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	j.parts = append(j.parts, part)
	for i := range page / entrySize {
		memory := part[i*entrySize:][:entrySize]
		state := (*entryState)(unsafe.Pointer(&memory[0])) //nolint:gosec // the memory is mapped as long as the process runs
		seen := unsafe.Offsetof(state.seen)
		e := &entry{
			entryState: state, journal: j, touched: true,
			seenAt: memory[seen : seen+1], room: at + int64(page) + int64(i)*2*maxLine,
		}
		if e.id == [16]byte{} {
			j.free = append(j.free, e)
		} else {
			j.used[e.id] = e
		}
	}
	return nil
}

// close is for tests: a shim has its journal until it ends. No log may be open.
func (j *journal) close() error {
	errs := []error{j.file.Close()}
	for _, part := range j.parts {
		errs = append(errs, unix.Munmap(part))
	}
	return errors.Join(errs...)
}

func entryID(container string) (id [16]byte) {
	sum := sha256.Sum256([]byte(container))
	copy(id[:], sum[:])
	return id
}

func streamIndex(name string) int {
	if name == "stderr" {
		return 1
	}
	return 0
}

// enter gives the entry of a container: the one that the shim before has left, or a new one. nil:
// there is none, and a kill of this process loses what was read and not written.
func (j *journal) enter(container string) *entry {
	if j == nil {
		return nil
	}
	id := entryID(container)
	j.mu.Lock()
	defer j.mu.Unlock()
	if e := j.used[id]; e != nil {
		return e
	}
	if len(j.free) == 0 {
		if err := j.mapPart(int64(len(j.parts)) * partSize()); err != nil {
			slog.Warn("log without a journal", "container", container, "error", err)
			return nil
		}
	}
	e := j.free[len(j.free)-1]
	j.free = j.free[:len(j.free)-1]
	*e.entryState = entryState{}
	e.id = id
	j.used[id] = e
	return e
}

// forget frees the entry that the shim before may have left of a container that has ended.
func (j *journal) forget(container string) {
	if j == nil {
		return
	}
	j.mu.Lock()
	e := j.used[entryID(container)]
	j.mu.Unlock()
	e.release()
}

// release frees the entry, which the caller does not use any more.
func (e *entry) release() {
	if e == nil {
		return
	}
	e.empty()
	e.journal.mu.Lock()
	defer e.journal.mu.Unlock()
	delete(e.journal.used, e.id)
	e.underWay.Store(0)
	e.id = [16]byte{}
	e.journal.free = append(e.journal.free, e)
}

// empty frees the room of lines that are not ended.
func (e *entry) empty() {
	if e == nil || !e.touched {
		return
	}
	err := unix.Fallocate(int(e.journal.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.room, 2*maxLine)
	e.touched = err != nil // the next is tried again
}

// begin notes a step whose records are to be appended to the log with the inode, which has the
// size; 0, 0, 0: it writes none.
func (e *entry) begin(s step, inode uint64, size int64, records int) {
	if e == nil {
		return
	}
	e.stream, e.taken, e.left = uint32(streamIndex(s.stream)), 0, uint32(s.left)
	e.inode, e.before, e.after = inode, size, size+int64(records)
	if s.source >= 0 && len(s.data) > 0 {
		e.taken, e.first, e.seen = uint32(len(s.data)), s.data[0], ^s.data[0]
	}
	e.underWay.Store(1)
}

// commit takes the data of a step out of its source, and notes the end of the step.
func (e *entry) commit(s step) {
	seen := make([]byte, 1)
	if e != nil {
		seen = e.seenAt
	}
	if s.source >= 0 && len(s.data) > 0 {
		takeOut(s.source, seen, s.data[1:])
	}
	if e != nil {
		e.unfinished[e.stream] = e.left
		e.underWay.Store(0)
	}
}

// takeOut reads what is at the head of a pipe, with one call, which no kill cuts in two; only in the
// packet mode of pipe(2) each call gives one packet. The container itself may have read some of it
// meanwhile, which is no error.
func takeOut(source int, first, rest []byte) {
	n, err := ignoringEINTR(func() (int, error) { return unix.Readv(source, [][]byte{first, rest}) })
	for left := len(rest) + 1 - n; err == nil && n > 0 && left > 0; left -= n {
		n, err = ignoringEINTR(func() (int, error) { return unix.Read(source, rest[len(rest)-left:]) })
	}
}

// keep stores the end of a stream's line that is not ended, whose length is then s.left.
func (e *entry) keep(s step) {
	if e != nil && len(s.data) > 0 {
		e.touched = true
		at := e.room + int64(streamIndex(s.stream))*maxLine + int64(s.left-len(s.data))
		if _, err := e.journal.file.WriteAt(s.data, at); err != nil {
			slog.Warn("a line that is not ended would be torn by a kill of the shim", "error", err)
		}
	}
	e.begin(s, 0, 0, 0)
	e.commit(s)
}

// line gives the line of a stream that is not ended.
func (e *entry) line(stream string) []byte {
	if e == nil {
		return nil
	}
	i := streamIndex(stream)
	size := int64(min(e.unfinished[i], maxLine))
	if size == 0 {
		return nil
	}
	line := make([]byte, size)
	if _, err := e.journal.file.ReadAt(line, e.room+int64(i)*maxLine); err != nil {
		slog.Warn("a line that was not ended is torn", "error", err)
		return nil
	}
	return line
}

// settle ends or undoes the step that the shim before was killed in. sources are the pipes of the
// streams, by their index.
func (e *entry) settle(to logTarget, sources []*os.File) error {
	if e == nil || e.underWay.Load() == 0 {
		return nil
	}
	done := e.taken > 0 && e.seen != ^e.first
	if !done && e.inode != 0 {
		var err error
		if done, err = e.written(to); err != nil {
			return fmt.Errorf("log that a killed shim was writing: %w", err)
		}
		if done && e.taken > 0 {
			e.takeRest(sources[e.stream&1])
		}
	}
	if done {
		e.unfinished[e.stream&1] = e.left
	}
	e.underWay.Store(0)
	return nil
}

func (e *entry) takeRest(source *os.File) {
	if source == nil {
		return
	}
	raw, err := source.SyscallConn()
	if err != nil {
		return
	}
	rest := make([]byte, min(e.taken, batchSize)-1)
	_ = raw.Control(func(fd uintptr) { takeOut(int(fd), e.seenAt, rest) }) // an error: it is closed
}

// written tells whether the log has the records of the step, and removes what it has of them if
// they are not whole. In another file than that of the step they are not.
func (e *entry) written(to logTarget) (bool, error) {
	f, err := openBelow(to.root, to.path, unix.O_RDWR)
	if err != nil {
		return false, err
	}
	defer f.Close()
	size, inode, err := factsOf(f)
	if err != nil || inode != e.inode {
		return false, err
	}
	if size >= e.after {
		return true, nil
	}
	if size > e.before {
		return false, f.Truncate(e.before)
	}
	return false, nil
}

// scratch is a pipe for peek.
type scratch struct{ in, out int }

// scratches are the pipes that peek uses. nil: there are none.
var scratches = sync.OnceValue(func() chan scratch {
	pipes := make(chan scratch, 2)
	for range cap(pipes) {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			slog.Error("logs without a journal", "error", err)
			return nil
		}
		pipes <- scratch{in: fds[1], out: fds[0]}
	}
	return pipes
})

// peek reads what is at the head of a pipe and leaves it there. Its result is that of read(2):
// 0 is the end, EAGAIN tells that there is nothing yet, and EINVAL that this is no pipe.
func peek(fd int, buf []byte) (int, error) {
	pipes := scratches()
	s := <-pipes
	defer func() { pipes <- s }()
	copied, err := unix.Tee(fd, s.in, len(buf), unix.SPLICE_F_NONBLOCK)
	if err != nil || copied == 0 {
		return 0, err
	}
	n := 0
	for n < int(copied) && err == nil {
		var more int
		more, err = unix.Read(s.out, buf[n:copied])
		n += max(more, 0)
	}
	return n, err
}
