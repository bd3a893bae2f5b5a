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

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

const (
	// drainLimit is how long the log may take the last output of an ended container.
	drainLimit = 10 * time.Second
	// headSize is how much of the first output is remembered, for the case that
	// it is the reason why the command could not be executed.
	headSize = 512
)

// stdio is what the shim holds of a container's streams.
type stdio struct {
	terminal bool
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
	busy   atomic.Bool // output is on its way to the log

	mu    sync.Mutex
	sinks []*sink
	ended bool // nothing comes to sinks any more
	head  []byte
}

// newStdio opens the log and, without a terminal, the pipes. given are the ends
// that the container's process gets: stdin (or nil), stdout, stderr.
func newStdio(logRoot, logPath string, terminal, stdin bool, owner [2]int) (io *stdio, err error) {
	io = &stdio{terminal: terminal}
	if logPath != "" {
		if io.log, err = openLog(logRoot, logPath); err != nil {
			return nil, err
		}
	}
	if terminal {
		return io, nil
	}
	defer func() {
		if err != nil {
			io.closeGiven()
			io.close()
		}
	}()
	if err := io.openStdin(stdin, owner); err != nil {
		return nil, err
	}
	for _, name := range []string{"stdout", "stderr"} {
		r, w, err := pipe(0, owner)
		if err != nil {
			return nil, err
		}
		io.given = append(io.given, w)
		io.run(name, r)
	}
	return io, nil
}

// inheritStdio goes on with the streams of a container that another shim began;
// it removes from files what it keeps.
func inheritStdio(logRoot, logPath string, terminal bool, files map[string]*os.File) (*stdio, error) {
	s := &stdio{terminal: terminal}
	if logPath != "" {
		log, err := resumeLog(logRoot, logPath)
		if err != nil {
			return nil, err
		}
		s.log = log
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

// pipe makes a pipe of which only our end (0 read, 1 write) does not block: the
// container's programs expect theirs to. It belongs to the container's root,
// which may have to open it again as /dev/stdout.
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

// setConsole gives a terminal's master to the stdio, which owns it from then on.
func (s *stdio) setConsole(master *os.File) {
	s.mu.Lock()
	s.stdin = master
	s.mu.Unlock()
	s.run("stdout", master)
}

// closeGiven closes the container's ends after it has got them.
func (s *stdio) closeGiven() {
	for _, f := range s.given {
		if f != nil {
			_ = f.Close() // a copy of the container's
		}
	}
	s.given = nil
}

func (s *stdio) run(name string, source *os.File) {
	st := &stream{name: name, source: source, done: make(chan struct{})}
	if s.log != nil {
		st.lines = &lineWriter{stream: name, log: s.log}
	}
	s.mu.Lock()
	s.streams = append(s.streams, st)
	s.mu.Unlock()
	go st.pump()
}

// pump copies the stream until its end: to the log, then to who is attached. It
// ends when all writers have closed, or stdio.close takes the source away.
func (st *stream) pump() {
	defer close(st.done)
	for {
		if err := readSome(st.source, st.take); err != nil {
			break
		}
	}
	if st.lines != nil {
		st.lines.end(time.Now())
	}
	st.endSinks()
}

func (st *stream) take(data []byte) {
	st.busy.Store(true)
	defer st.busy.Store(false)
	if st.lines != nil {
		st.lines.write(data, time.Now())
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if room := headSize - len(st.head); room > 0 {
		st.head = append(st.head, data[:min(room, len(data))]...)
	}
	for _, k := range st.sinks {
		k.offer(data)
	}
}

// firstOutput is what the container's process said first, on stderr or its terminal.
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

// stream finds an output by name; with a terminal everything is stdout.
func (s *stdio) stream(name string) *stream {
	for _, st := range s.output() {
		if st.name == name {
			return st
		}
	}
	return nil
}

// drain waits, after the container has ended, until its output is in the log.
// It does not wait for the end of a pipe of which something outside the
// container holds the other end.
func (s *stdio) drain() {
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

// drained waits a while for the stream's end.
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

// input is the container's stdin, nil when it has none or it is closed.
func (s *stdio) input() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stdin
}

// closeStdin ends the container's input, unless it has none or none any more; a
// terminal has no such end.
func (s *stdio) closeStdin() (closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin == nil || s.terminal {
		return false
	}
	_ = s.stdin.Close() // what could not be written nobody reads
	s.stdin = nil
	return true
}

// close releases everything that is left, also of streams that have not ended.
func (s *stdio) close() {
	s.mu.Lock()
	if s.stdin != nil {
		_ = s.stdin.Close() // the container is gone
		s.stdin = nil
	}
	s.mu.Unlock()
	for _, st := range s.output() {
		_ = st.source.Close() // ends the pump
		<-st.done
	}
	if s.log != nil {
		if err := s.log.close(); err != nil {
			slog.Warn("close log", "path", s.log.path, "error", err)
		}
	}
}

// receiveConsole takes the pty's master from the container's init, which opened
// it in its own /dev/pts.
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
