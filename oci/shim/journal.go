package shim

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
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
	journalName = shimapi.JournalPrefix + "1"
	entrySize   = 128
)

// entryState is an entry as it is in the file. A zero ID is that of a free entry.
type entryState struct {
	id    [16]byte // of the container, see entryID
	steps [2]stepState
}

// stepState is how far the output of one stream got, see [step].
type stepState struct {
	underWay   atomic.Uint32 // the step is being done
	taken      uint32        // bytes at the head of the source that the step takes out; 0: it was read
	left       uint32        // bytes of the stream's line that are not ended after the step
	unfinished uint32        // the same, now
	inode      uint64        // of the log that the step writes; 0: it writes none
	before     int64         // size of the log
	after      int64         // size of the log once the records are whole
	first      byte          // of what the step takes out
	seen       byte          // first's complement until the kernel puts first here as it takes the bytes
}

var _ [entrySize - unsafe.Sizeof(entryState{})]byte // an entry has room for it

// entry is the place of one log in the journal.
type entry struct {
	*entryState
	journal *journal
	streams [2]streamEntry
}

// streamEntry is the part of one stream, for its pump alone.
type streamEntry struct {
	*stepState
	file    *os.File
	seenAt  []byte // the byte seen, as memory that the kernel writes to
	room    int64  // where in the file the line is that is not ended
	touched bool   // the room may be allocated
	logged  bool   // what the step under way takes out is in the log already
}

// step is a piece of output on its way to the log. It ends as a whole or not at all.
type step struct {
	entry  *streamEntry // nil: nobody learns of it
	source int          // a descriptor of the pipe that still has data at its head; -1: it was read
	data   []byte       // what the step takes out
	left   int          // bytes of the stream's line that are not ended after the step
}

// newJournal opens the journal of a shim that starts. nil: it can't be had, and logs do without.
func newJournal(dir string) (*journal, error) {
	j, err := openJournal(dir)
	if err == nil {
		return j, nil
	}
	slog.Error("logs without a journal", "error", err)
	// A successor would believe what it says of output that it does not know of.
	if err := os.Remove(filepath.Join(dir, journalName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove journal: %w", err)
	}
	return nil, nil
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
		e := j.newEntry(part[i*entrySize:][:entrySize], at+int64(page)+int64(i)*2*maxLine)
		if e.id == [16]byte{} {
			j.free = append(j.free, e)
		} else {
			j.used[e.id] = e
		}
	}
	return nil
}

func (j *journal) newEntry(memory []byte, room int64) *entry {
	state := (*entryState)(unsafe.Pointer(&memory[0])) //nolint:gosec // the memory is mapped as long as the process runs
	e := &entry{entryState: state, journal: j}
	for i := range e.streams {
		seen := unsafe.Offsetof(state.steps) + uintptr(i)*unsafe.Sizeof(stepState{}) + unsafe.Offsetof(stepState{}.seen)
		e.streams[i] = streamEntry{
			stepState: &state.steps[i], file: j.file, seenAt: memory[seen : seen+1], room: room + int64(i)*maxLine, touched: true,
		}
	}
	return e
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

// enter gives a new container's log an entry. nil: there is none, and a kill of this process loses
// what was read and not written.
func (j *journal) enter(container string) *entry {
	j.forget(container)
	return j.inherit(container)
}

// inherit gives the entry that the shim before has left of a container's log, or a new one, see
// enter.
func (j *journal) inherit(container string) *entry {
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

// forget frees the entry that may be left of a container whose output nobody reads any more.
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
	for i := range e.streams {
		e.streams[i].underWay.Store(0)
		e.streams[i].empty()
	}
	e.journal.mu.Lock()
	defer e.journal.mu.Unlock()
	delete(e.journal.used, e.id)
	e.id = [16]byte{}
	e.journal.free = append(e.journal.free, e)
}

// stream is the part of a stream; nil: there is no entry.
func (e *entry) stream(name string) *streamEntry {
	if e == nil {
		return nil
	}
	return &e.streams[streamIndex(name)]
}

// empty frees the room of a line that is not ended.
func (e *streamEntry) empty() {
	if !e.touched {
		return
	}
	err := unix.Fallocate(int(e.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.room, maxLine)
	e.touched = err != nil // the next is tried again
}

// line gives the stream's line that is not ended.
func (e *streamEntry) line() []byte {
	if e == nil || e.unfinished == 0 {
		return nil
	}
	line := make([]byte, min(e.unfinished, maxLine))
	if _, err := e.file.ReadAt(line, e.room); err != nil {
		slog.Warn("a line that was not ended is torn", "error", err)
		return nil
	}
	return line
}

// begin notes a step whose records are to be appended to the log with the inode, which has the
// size; 0, 0, 0: it writes none.
func (s step) begin(inode uint64, size int64, records int) {
	e := s.entry
	if e == nil {
		return
	}
	e.underWay.Store(0) // it is 1 if the step of a killed shim could not be settled
	e.taken, e.left = 0, uint32(s.left)
	e.inode, e.before, e.after = inode, size, size+int64(records)
	if s.source >= 0 && len(s.data) > 0 {
		e.taken, e.first, e.seen = uint32(len(s.data)), s.data[0], ^s.data[0]
	}
	e.underWay.Store(1)
}

// commit takes the data of a step out of its source, and notes the end of the step. It waits as
// long as the container holds its pipe's lock, as a read of the pipe would.
func (s step) commit() {
	e := s.entry
	if e == nil {
		return
	}
	if s.source >= 0 && len(s.data) > 0 {
		takeOut(s.source, e.seenAt, s.data[1:])
	}
	e.unfinished = e.left
	e.underWay.Store(0)
}

// takeOut reads what is at the head of a pipe, with one call, which no kill cuts in two. The
// container itself may have read some of it meanwhile, which is no error.
func takeOut(source int, first, rest []byte) {
	_, _ = ignoringEINTR(func() (int, error) { return unix.Readv(source, [][]byte{first, rest}) })
}

// keep stores the end of a stream's line that is not ended, whose length is then s.left.
func (s step) keep() {
	if e := s.entry; e != nil {
		e.touched = true
		if _, err := e.file.WriteAt(s.data, e.room+int64(s.left-len(s.data))); err != nil {
			slog.Warn("a line that is not ended would be torn by a kill of the shim", "error", err)
			s.left = 0
		}
	}
	s.begin(0, 0, 0)
	s.commit()
}

// settle ends or undoes the steps that the shim before was killed in.
func (e *entry) settle(to logTarget) error {
	if e == nil {
		return nil
	}
	for i := range e.streams {
		if err := e.streams[i].settle(to); err != nil {
			return fmt.Errorf("log that a killed shim was writing: %w", err)
		}
	}
	return nil
}

func (e *streamEntry) settle(to logTarget) error {
	if e.underWay.Load() == 0 {
		return nil
	}
	done := e.taken > 0 && e.seen != ^e.first
	if !done && e.inode != 0 {
		var err error
		if done, err = e.written(to); err != nil {
			return err
		}
	}
	if done {
		e.unfinished = e.left
	}
	e.logged = done && e.taken > 0 && e.seen == ^e.first
	if !e.logged {
		e.underWay.Store(0)
	}
	return nil
}

// takeLogged takes out of the source what the shim before has logged and not taken out. That is left
// to the pump, since it waits for a container that holds its pipe's lock.
func (e *streamEntry) takeLogged(source *os.File) {
	if e == nil || !e.logged {
		return
	}
	e.logged = false
	if raw, err := source.SyscallConn(); err == nil {
		rest := make([]byte, min(e.taken, batchSize)-1)
		_ = raw.Control(func(fd uintptr) { takeOut(int(fd), e.seenAt, rest) }) // an error: it is closed
	}
	e.underWay.Store(0)
}

// written tells whether the log has the records of the step, and removes what it has of them if
// they are not whole. In a file that is another by now, since the log was rotated, they are not:
// that output is in both.
func (e *streamEntry) written(to logTarget) (bool, error) {
	f, err := openBelow(to.root, to.path, unix.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
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

// scratch is an empty pipe, into which the head of another is duplicated.
type scratch struct{ in, out int }

// scratches keeps some for the next peeks. One whose peek waits for the lock of a container's pipe,
// which a container can hold, is not among them, so no peek waits for another.
var scratches = make(chan scratch, 2)

// errUnseen tells that peek can't say what is at the head of a pipe. Only a read can.
var errUnseen = errors.New("output can't be peeked at")

// errPackets tells that a pipe is in the packet mode of pipe(2), where what a read leaves of a
// packet is lost, or that the file is no pipe.
var errPackets = errors.New("output can be read only once")

func takeScratch() (scratch, error) {
	select {
	case s := <-scratches:
		return s, nil
	default:
	}
	var fds [2]int
	err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK)
	return scratch{in: fds[1], out: fds[0]}, err
}

// keep takes a scratch for a later peek, if it is surely empty.
func (s scratch) keep(empty bool) {
	if empty {
		select {
		case scratches <- s:
			return
		default:
		}
	}
	_ = unix.Close(s.in) // nobody else has it
	_ = unix.Close(s.out)
}

// peek reads what is at the head of a pipe and leaves it there. The error EAGAIN tells that there
// is nothing yet. The end of the pipe is errUnseen.
func peek(fd int, buf []byte) (int, error) {
	s, err := takeScratch()
	if err != nil {
		return 0, errUnseen // no descriptors are left
	}
	copied, err := unix.Tee(fd, s.in, len(buf), unix.SPLICE_F_NONBLOCK)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		s.keep(true)
		return 0, err
	case errors.Is(err, unix.EINVAL):
		s.keep(true)
		return 0, errPackets
	case err != nil || copied == 0: // there may be buffers without a byte in both pipes
		s.keep(false)
		return 0, errUnseen
	}
	// Two reads get all but from packets: the first ends with one, or drops the rest of it.
	n, err := unix.Read(s.out, buf[:max(copied-1, 1)])
	if err == nil && int64(n) == copied-1 {
		var last int
		last, err = unix.Read(s.out, buf[n:copied])
		n += max(last, 0)
	}
	whole := err == nil && int64(n) == copied
	s.keep(whole)
	switch {
	case whole:
		return n, nil
	case err == nil || errors.Is(err, unix.EAGAIN):
		return 0, errPackets
	}
	return 0, errUnseen
}
