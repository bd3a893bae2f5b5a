package shim

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

const (
	// drainLimit bounds how long the last output of an ended container may take to be
	// written to the log.
	drainLimit = 10 * time.Second
	// headSize is how many bytes of the first output are kept in memory: if the command
	// can't be executed, they are the reason.
	headSize = 512
	// idleTime is how long a stream without output keeps its goroutine.
	idleTime = 2 * time.Second
)

// stdio is the shim's side of a container's streams.
type stdio struct {
	terminal bool
	fifos    bool     // its streams are fifos, with a terminal too
	log      *logFile // nil: no log
	streams  []*stream

	mu    sync.Mutex
	stdin *os.File // write end of the pipe, or the pty's master; nil when there is none
	given []*os.File
}

// stream is one output of a container: a pipe's read end or a pty's master.
type stream struct {
	name   string
	source *os.File
	lines  *lineWriter // nil: no log
	done   chan struct{}
	busy   atomic.Bool // a piece of output is being written to the log

	readOnce bool // the source can be read only once; for the pump

	mu      sync.Mutex
	sinks   []*sink
	ended   bool // no more output comes for sinks
	head    []byte
	idle    *watch // of source, while it has no pump; nil: it was never idle
	closing bool   // it is not to become idle any more
}

// newStdio opens the log and, without a terminal, the pipes. given are the ends
// that the container's process gets: stdin (or nil), stdout, stderr.
func newStdio(to logTarget, terminal, stdin bool, owner [2]int) (_ *stdio, err error) {
	s := &stdio{terminal: terminal}
	if err := s.openLog(to); err != nil {
		return nil, err
	}
	if terminal {
		return s, nil
	}
	defer func() {
		if err != nil {
			s.closeGiven()
			s.close()
		}
	}()
	if err := s.openStdin(stdin, owner); err != nil {
		return nil, err
	}
	for _, name := range []string{"stdout", "stderr"} {
		r, w, err := pipe(0, owner)
		if err != nil {
			return nil, err
		}
		s.given = append(s.given, w)
		s.run(name, r)
	}
	return s, nil
}

// inheritStdio takes over the streams of an adopted container. It removes the files that it
// keeps from the map.
func inheritStdio(to logTarget, terminal bool, files map[string]*os.File) (*stdio, error) {
	s := &stdio{terminal: terminal}
	if err := s.resumeLog(to); err != nil {
		return nil, err
	}
	take := func(name string) *os.File {
		f := files[name]
		delete(files, name)
		return f
	}
	if terminal {
		s.setConsole(take(shimapi.FileConsole))
		return s, nil
	}
	s.stdin = take(shimapi.FileStdin)
	for _, name := range []string{shimapi.FileStdout, shimapi.FileStderr} {
		s.run(name, take(name))
	}
	return s, nil
}

func (s *stdio) openLog(to logTarget) (err error) {
	if to.path == "" {
		return nil
	}
	if s.log, err = openLog(to); err != nil {
		s.log = nil
		to.entry.release()
	}
	return err
}

// resumeLog opens the log of an adopted container, and ends what the shim before was doing to it.
func (s *stdio) resumeLog(to logTarget) error {
	if to.path == "" {
		return nil
	}
	err := to.entry.settle(to)
	if isOurShortage(err) {
		return err
	}
	if err != nil {
		slog.Error("output may be twice in the log, or torn", "path", to.path, "error", err)
	}
	log, err := resumeLog(to)
	s.log = log
	return err
}

func (s *stdio) openStdin(wanted bool, owner [2]int) error {
	if !wanted {
		s.given = append(s.given, nil)
		return nil
	}
	r, w, err := pipe(1, owner)
	if err != nil {
		return err
	}
	s.stdin, s.given = w, append(s.given, r)
	return nil
}

// pipe makes a pipe. Our end (0 read, 1 write) is non-blocking; programs in the container
// expect theirs to block. It belongs to the container's root, so that processes there can
// open it again as /dev/stdout.
func pipe(ours int, owner [2]int) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	err = unix.SetNonblock(fds[ours], true)
	if err == nil && owner != [2]int{} {
		err = unix.Fchown(fds[0], owner[0], owner[1]) // both ends are one inode
	}
	r, w = os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe")
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("pipe: %w", err), r.Close(), w.Close())
	}
	return r, w, nil
}

// setConsole sets the master of the terminal, which the stdio owns from then on.
func (s *stdio) setConsole(master *os.File) {
	s.mu.Lock()
	s.stdin = master
	s.mu.Unlock()
	s.run("stdout", master)
}

// closeGiven closes the container's ends of the pipes, once its process has them.
func (s *stdio) closeGiven() {
	for _, f := range s.given {
		if f != nil {
			_ = f.Close() // the container has its own
		}
	}
	s.given = nil
}

func (s *stdio) run(name string, source *os.File) {
	st := &stream{name: name, source: source, done: make(chan struct{})}
	if s.log != nil {
		st.lines = &lineWriter{stream: name, log: s.log, entry: s.log.entry.stream(name)}
		st.lines.pending = st.lines.entry.unended()
	}
	s.mu.Lock()
	s.streams = append(s.streams, st)
	s.mu.Unlock()
	go st.pump()
}

// pump copies the stream to the log and then to attached clients. It returns when all
// writers have closed the stream, or stop has closed the source, and when there was no output
// for a while: it is called again when there is.
func (st *stream) pump() {
	if st.lines != nil {
		st.lines.entry.takeLogged(st.source)
	}
	for {
		_ = st.source.SetReadDeadline(time.Now().Add(idleTime)) // an error: it is closed, or can't be idle
		err := readSome(st.source, st.read, st.take)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			st.lines.rest()
			if st.rest() {
				return
			}
		case err != nil:
			st.finish()
			return
		}
	}
}

// read gives the next piece of output. It leaves the piece in the source, so that no kill loses it
// before it is in the log, unless there is no journal or the source can be read only once.
func (st *stream) read(fd int, buf []byte) (n, source int, err error) {
	if st.lines != nil && st.lines.entry != nil && !st.readOnce {
		n, err = peek(fd, buf)
		if !errors.Is(err, errUnseen) && !errors.Is(err, errPackets) {
			return n, fd, err
		}
		st.readOnce = errors.Is(err, errPackets)
	}
	n, err = unix.Read(fd, buf)
	return n, -1, err
}

// rest has pump called when there is output. false: it has to go on.
func (st *stream) rest() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closing {
		return false
	}
	if st.idle == nil {
		st.idle = sleepers().watch(st.source, st.pump)
	}
	return st.idle.arm()
}

// finish is called when no more output comes.
func (st *stream) finish() {
	defer close(st.done)
	if st.lines != nil {
		st.lines.end(time.Now())
	}
	st.endSinks()
}

// stop ends the stream, if it has not ended, and closes its source.
func (st *stream) stop() {
	st.mu.Lock()
	st.closing = true
	resting := st.idle != nil && st.idle.stop()
	st.mu.Unlock()
	_ = st.source.Close() // ends the pump
	if resting {
		st.finish()
	}
	<-st.done
}

// take passes on a piece of output, see [lineWriter.writeFrom].
func (st *stream) take(source int, data []byte) {
	st.busy.Store(true)
	defer st.busy.Store(false)
	if st.lines != nil {
		st.lines.writeFrom(source, data, time.Now())
	}
	st.offer(data)
	if st.lines != nil {
		st.lines.log.pace.wait()
	}
}

// offer passes output on to attached clients.
func (st *stream) offer(data []byte) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if room := headSize - len(st.head); room > 0 {
		st.head = append(st.head, data[:min(room, len(data))]...)
	}
	for _, k := range st.sinks {
		k.offer(data)
	}
}

// firstOutput is the beginning of what the container wrote to stderr, or to its terminal.
func (s *stdio) firstOutput() string {
	var text []byte
	for _, st := range s.output() {
		st.mu.Lock()
		if st.name == "stderr" || s.terminal {
			text = append(text, st.head...)
		}
		st.mu.Unlock()
	}
	return string(text)
}

func (s *stdio) output() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.streams)
}

// stream finds an output by name. With a terminal there is only stdout.
func (s *stdio) stream(name string) *stream {
	for _, st := range s.output() {
		if st.name == name {
			return st
		}
	}
	return nil
}

// drain waits, after the container has ended, until its output is in the log. It does not
// wait for a pipe whose other end is still open in a process outside the container.
func (s *stdio) drain() {
	if s.log != nil {
		s.log.pace.end()
	}
	last := time.Now().Add(drainLimit)
	for _, st := range s.output() {
		for !st.drained() {
			if !st.busy.Load() || time.Now().After(last) {
				slog.Warn("output did not end with its container")
				break
			}
		}
	}
}

// drained waits up to drainGrace for the end of the stream.
func (st *stream) drained() bool {
	timeout := time.NewTimer(drainGrace)
	defer timeout.Stop()
	select {
	case <-st.done:
		return true
	case <-timeout.C:
		return false
	}
}

// input is the container's stdin; nil: it has none, or none any more.
func (s *stdio) input() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stdin
}

// closeStdin ends the container's input, if it has one. The input of a terminal can't be
// ended.
func (s *stdio) closeStdin() (closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin == nil || s.terminal {
		return false
	}
	_ = s.stdin.Close() // input that was not written has no reader
	s.stdin = nil
	return true
}

// close closes all files that are left, also of streams that have not ended.
func (s *stdio) close() {
	for _, st := range s.output() { // first: a terminal's is the input as well
		st.stop()
	}
	s.mu.Lock()
	if s.stdin != nil {
		_ = s.stdin.Close() // the container is gone
		s.stdin = nil
	}
	s.mu.Unlock()
	if s.log != nil {
		if err := s.log.close(); err != nil {
			slog.Warn("close log", "path", s.log.path, "error", err)
		}
	}
}

// consoleSockets makes the two ends of the socket that the master of a terminal comes by:
// ours, and that of the container's process.
func consoleSockets() (ours *net.UnixConn, child *os.File, err error) {
	parent, child, err := utils.NewSockPair("console")
	if err != nil {
		return nil, nil, err
	}
	conn, err := net.FileConn(parent)
	_ = parent.Close() // conn is a duplicate
	if err != nil {
		return nil, nil, errors.Join(err, child.Close())
	}
	return conn.(*net.UnixConn), child, nil
}

// receiveConsole receives the master of the terminal from the container's init process,
// which has opened it in its own /dev/pts.
func receiveConsole(conn *net.UnixConn) (*os.File, error) {
	var name [4096]byte
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name[:], rights)
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("receive terminal: %d messages, %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive terminal: %d files, %w", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), "pty"), nil
}
