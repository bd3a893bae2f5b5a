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
	roomSize    = 2 * 2 * maxLine // of an entry: two streams, two sides
)

// entryState is an entry as it is in the file. A zero ID is that of a free entry.
type entryState struct {
	id    [16]byte // of the container, see entryID
	steps [2]stepState
}

// stepState is how far the output of one stream got, see [step].
type stepState struct {
	phase  atomic.Uint32
	taken  uint32 // bytes at the head of the source that the step takes out; 0: they were read
	inode  uint64 // of the log
	before int64  // size of the log before the step
	left   uint32 // bytes of the stream's line that are not ended after the step
	line   uint32 // the same, now
	// The room of a stream has two sides. One has the line now, the other may get that after a step.
	side, leftSide byte
	first          byte // of what the step takes out
	seen           byte // first's complement until the kernel puts first here as it takes the bytes
}

// The phases of a step.
const (
	noStep  uint32 = iota
	writing        // the log may have some of the records, and is locked
	written        // the log has what it will have of the records
)

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
	logged  bool   // what the step takes out is in the log already
}

// newJournal opens the journal of a shim that starts. nil: it can't be had, and logs do without.
func newJournal(dir string) (*journal, error) {
	j, err := openJournal(dir)
	if err == nil || isOurShortage(err) {
		return j, err
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
	return page + page/entrySize*roomSize
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
		e := j.newEntry(part[i*entrySize:][:entrySize], at+int64(page)+int64(i)*roomSize)
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
			stepState: &state.steps[i], file: j.file, seenAt: memory[seen : seen+1], room: room + int64(i)*2*maxLine, touched: true,
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
		e.streams[i].phase.Store(noStep)
		e.streams[i].logged = false
		e.streams[i].empty()
	}
	e.journal.mu.Lock()
	defer e.journal.mu.Unlock()
	if e.journal.used[e.id] == e {
		delete(e.journal.used, e.id)
		e.id = [16]byte{}
		e.journal.free = append(e.journal.free, e)
	}
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
	err := unix.Fallocate(int(e.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.room, 2*maxLine)
	e.touched = err != nil // the next is tried again
}

// unended gives the stream's line that is not ended.
func (e *streamEntry) unended() []byte {
	if e == nil || e.line == 0 {
		return nil
	}
	line := make([]byte, min(e.line, maxLine))
	if _, err := e.file.ReadAt(line, e.at(e.side)); err != nil {
		slog.Warn("a line that was not ended is torn", "error", err)
		e.line = 0
		return nil
	}
	return line
}

// at is where a side of the room begins.
func (e *streamEntry) at(side byte) int64 { return e.room + int64(side&1)*maxLine }

// step is a piece of output on its way to the log. It ends as a whole or not at all:
//
//	begin                 the size of the log is noted, which an undo restores
//	(the records are appended to the log)
//	keep                  the end that is no whole line is stored
//	wrote                 the log has the records
//	takeOut               the piece leaves its source
//
// A successor of a process that was killed before wrote has the log as it was, and the piece is
// still in the source. After wrote it has the source as it would have been.
type step struct {
	entry  *streamEntry // nil: no successor learns of it
	source int          // a descriptor of the pipe that still has data at its head; -1: it was read
	data   []byte
}

// begin is called with the log locked, which has the inode and the size.
func (s step) begin(inode uint64, size int64) {
	e := s.entry
	if e == nil {
		return
	}
	e.inode, e.before, e.taken, e.left, e.leftSide = inode, size, 0, 0, e.side
	if s.source >= 0 && len(s.data) > 0 {
		e.taken, e.first, e.seen = uint32(len(s.data)), s.data[0], ^s.data[0]
	}
	e.phase.Store(writing)
}

// keep stores the stream's line that is not ended after the step, of which the last bytes are new.
func (s step) keep(line []byte, added int) {
	e := s.entry
	if e == nil || len(line) == 0 {
		return
	}
	text, at := line[len(line)-added:], e.at(e.side)+int64(e.line)
	if int(e.line) != len(line)-added { // it is another line, and this one is needed until the step ends
		e.leftSide ^= 1
		text, at = line, e.at(e.leftSide)
	}
	e.touched = true
	if _, err := e.file.WriteAt(text, at); err != nil {
		slog.Warn("a line that is not ended would be torn by a kill of the shim", "error", err)
		return
	}
	e.left = uint32(len(line))
}

// wrote is called with the log still locked.
func (s step) wrote() {
	if s.entry != nil {
		s.entry.phase.Store(written)
	}
}

// takeOut ends the step. It waits as long as the container holds its pipe's lock, as a read of the
// pipe would.
func (s step) takeOut() {
	e := s.entry
	if e == nil {
		return
	}
	if e.taken > 0 {
		takeOut(s.source, e.seenAt, s.data[1:])
	}
	e.line, e.side = e.left, e.leftSide
	e.phase.Store(noStep)
}

// takeOut reads what is at the head of a pipe, with one call, which no kill cuts in two. The
// container itself may have read some of it meanwhile, which is no error.
func takeOut(source int, first, rest []byte) {
	_, _ = ignoringEINTR(func() (int, error) { return unix.Readv(source, [][]byte{first, rest}) })
}

// settle ends or undoes the steps that the shim before was killed in.
func (e *entry) settle(to logTarget) error {
	if e == nil {
		return nil
	}
	var errs []error
	for i := range e.streams {
		if err := e.streams[i].settle(to); err != nil {
			errs = append(errs, fmt.Errorf("log that a killed shim was writing: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (e *streamEntry) settle(to logTarget) error {
	if e.phase.Load() == writing {
		err := e.undo(to)
		if !isOurShortage(err) { // else the adoption is tried again
			e.phase.Store(noStep)
		}
		if err != nil {
			return err
		}
	}
	if e.phase.Load() == noStep {
		return nil
	}
	e.line, e.side = e.left, e.leftSide
	if e.taken > 0 && e.seen == ^e.first {
		e.logged = true
		return nil
	}
	e.phase.Store(noStep)
	return nil
}

// undo removes the records of the step from the log. In a file that is another by now, since the
// log was rotated before the successor had it, there are none; the old one keeps what it has.
func (e *streamEntry) undo(to logTarget) error {
	f, err := openBelow(to.root, to.path, unix.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	size, inode, err := factsOf(f)
	if err != nil || inode != e.inode || size <= e.before {
		return err
	}
	return f.Truncate(e.before)
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
		clear(rest)                                                            // the memory is there, so that nothing cuts off the read of it
		_ = raw.Control(func(fd uintptr) { takeOut(int(fd), e.seenAt, rest) }) // an error: it is closed
	}
	e.phase.Store(noStep)
}

// scratch is an empty pipe, into which the head of another is duplicated.
type scratch struct{ in, out int }

// scratches keeps some for the next peeks. One whose peek waits for the lock of a container's pipe,
// which a container can hold, is not among them, so no peek waits for another.
var scratches = make(chan scratch, 2)

// errUnseen tells that peek can't say what is at the head of a pipe. Only a read can.
var errUnseen = errors.New("output can't be peeked at")

// errPackets tells that a pipe has several packets, see O_DIRECT in pipe(2), which no single read
// takes out, or that the file is no pipe.
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
	var more [1]byte
	n, err := unix.Readv(s.out, [][]byte{buf, more[:]}) // one packet, or all
	if err != nil || n == 0 {
		s.keep(false)
		return 0, errUnseen
	}
	_, err = unix.Read(s.out, more[:])
	s.keep(errors.Is(err, unix.EAGAIN))
	if int64(n) < copied {
		return 0, errPackets
	}
	return n, nil
}
