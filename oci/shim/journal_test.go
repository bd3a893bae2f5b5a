package shim

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// loggerEnv makes the test's program log the streams 3 and 4 to this directory, as a shim does that
// takes over a container. It ends with the streams.
const loggerEnv = "BERTH_TEST_LOGGER"

func beLogger(dir string) error {
	j, err := openJournal(dir)
	if err != nil {
		return err
	}
	files := map[string]*os.File{}
	for i, name := range []string{shimapi.FileStdout, shimapi.FileStderr} {
		files[name] = os.NewFile(uintptr(3+i), name)
	}
	streams, err := inheritStdio(logTarget{path: filepath.Join(dir, "log"), entry: j.inherit("c")}, false, files)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for _, st := range streams.output() {
		<-st.done
	}
	streams.close()
	return nil
}

// A shim that is killed again and again, at any moment, neither loses output nor logs any twice.
func TestNoKillTearsALog(t *testing.T) {
	const kills = 60
	dir := t.TempDir()
	var sources []*os.File
	var writers sync.WaitGroup
	over := make(chan struct{})
	sent := make([]bytes.Buffer, 2)
	for i := range sent {
		r, w, err := pipe(0, [2]int{})
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, r)
		writers.Go(func() {
			defer w.Close()
			writeUntil(over, io.MultiWriter(w, &sent[i]))
		})
	}
	for n := range kills {
		logger, ready := startLogger(t, dir, sources)
		if n%2 == 0 {
			<-ready
		}
		time.Sleep(rand.N(20 * time.Millisecond)) // the moment of the kill
		if err := logger.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = logger.Wait() // it was killed
	}
	close(over)
	last, _ := startLogger(t, dir, sources)
	if err := last.Wait(); err != nil {
		t.Error(err)
	}
	for _, r := range sources {
		_ = r.Close() // ends the writers, if the logger has not read all
	}
	writers.Wait()
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"stdout", "stderr"} {
		got := loggedBy(t, log, name)
		t.Logf("%s: %d bytes", name, len(got))
		at := 0
		for at < min(len(got), sent[i].Len()) && got[at] == sent[i].Bytes()[at] {
			at++
		}
		if at < len(got) || at < sent[i].Len() {
			t.Errorf("%s: %d bytes logged, %d written; they differ at %d: %.60q, want %.60q",
				name, len(got), sent[i].Len(), at, got[at:], sent[i].Bytes()[at:])
		}
	}
}

// writeUntil writes lines of many lengths in pieces that end anywhere.
func writeUntil(over <-chan struct{}, to io.Writer) {
	for n := 0; ; n++ {
		select {
		case <-over:
			_, _ = io.WriteString(to, "a last line that is not ended") // the comparison shows what is missing
			return
		default:
		}
		line := fmt.Appendf(nil, "%d\n", n)
		switch {
		case n%100 == 0:
			line = fmt.Appendf(nil, "%d %s\n", n, strings.Repeat("long ", 8<<10))
		case n%7 == 0: // the same many times: no comparison of texts would tell what is logged yet
			line = bytes.Repeat([]byte("same\n"), 20)
		}
		for len(line) > 0 {
			piece := line[:1+rand.IntN(len(line))]
			line = line[len(piece):]
			_, _ = to.Write(piece) // likewise
		}
	}
}

// startLogger starts a process of [beLogger]; ready is closed once it has taken over.
func startLogger(t *testing.T, dir string, sources []*os.File) (*exec.Cmd, <-chan struct{}) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), loggerEnv+"="+dir)
	cmd.ExtraFiles, cmd.Stderr = sources, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		_, _ = bufio.NewReader(out).ReadString('\n') // an error: it has ended, which the caller sees
	}()
	return cmd, ready
}

// loggedBy puts together what a log has of a stream.
func loggedBy(t *testing.T, log []byte, name string) (out []byte) {
	t.Helper()
	for record := range bytes.Lines(log) {
		fields := bytes.SplitN(record, []byte{' '}, 4)
		if len(fields) != 4 || !bytes.HasSuffix(record, []byte{'\n'}) {
			t.Fatalf("no record: %.80q", record)
		}
		if string(fields[1]) != name {
			continue
		}
		text := fields[3]
		if string(fields[2]) == "P" {
			text = text[:len(text)-1]
		}
		out = append(out, text...)
	}
	return out
}

// Wherever a step is cut off, the next shim ends it or does it again.
func TestStepCutOff(t *testing.T) {
	const records = "2026-01-02T03:04:05.000000000Z stdout F hello\n2026-01-02T03:04:05.000000000Z stdout F you\n"
	other := strings.Replace(records, "stdout", "stderr", 1)
	stages := []struct {
		done string
		do   func(t *testing.T, s step, l *logFile)
	}{
		{"begun", func(_ *testing.T, s step, l *logFile) { s.begin(l.inode, l.size) }},
		{"half written", func(t *testing.T, _ step, l *logFile) { mustWrite(t, l.file, records[:60]) }},
		{"written", func(t *testing.T, _ step, l *logFile) { mustWrite(t, l.file, records[60:]) }},
		{"end kept", func(_ *testing.T, s step, _ *logFile) { s.keep([]byte("half"), 4) }},
		{"noted as written", func(_ *testing.T, s step, _ *logFile) { s.wrote() }},
		{"followed by half a record of the other stream", func(t *testing.T, _ step, l *logFile) { mustWrite(t, l.file, other[:60]) }},
		{"taken out", func(_ *testing.T, s step, _ *logFile) { takeOut(s.source, s.entry.seenAt, s.data[1:]) }},
		{"ended", func(_ *testing.T, s step, _ *logFile) { s.takeOut() }},
	}
	for n := range len(stages) + 1 {
		name := "nothing"
		if n > 0 {
			name = stages[n-1].done
		}
		t.Run(name, func(t *testing.T) {
			cutOff(t, func(t *testing.T, s step, l *logFile) {
				for i, stage := range stages[:n] {
					if n == len(stages) && i == n-2 {
						continue // the end takes it out itself
					}
					stage.do(t, s, l)
				}
			})
		})
	}
}

func cutOff(t *testing.T, cut func(t *testing.T, s step, l *logFile)) {
	const text = "hello\nyou\nhalf"
	dir := t.TempDir()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	to := logTarget{path: filepath.Join(dir, "log"), entry: j.enter("c")}
	l, err := openLog(to)
	if err != nil {
		t.Fatal(err)
	}
	defer l.file.Close() // its entry goes with the journal
	r, w, err := pipe(0, [2]int{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	mustWrite(t, w, text)
	fd := int(r.Fd())
	cut(t, step{entry: to.entry.stream("stdout"), source: fd, data: []byte(text)}, l)
	if err := j.close(); err != nil { // as a kill does
		t.Fatal(err)
	}
	ours, err := duplicate(r)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	heir(t, dir, ours, w)
	log, err := os.ReadFile(to.path)
	if err != nil {
		t.Fatal(err)
	}
	if got := loggedBy(t, log, "stdout"); string(got) != text+"world\n" {
		t.Errorf("logged %q", got)
	}
}

func mustWrite(t *testing.T, to io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

// heir takes over the streams, has the container write more and end, and checks that the journal is
// empty afterwards.
func heir(t *testing.T, dir string, r, w *os.File) {
	t.Helper()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	stderr, other, err := pipe(0, [2]int{})
	if err != nil {
		t.Fatal(err)
	}
	_ = other.Close() // nothing is written
	streams, err := inheritStdio(logTarget{path: filepath.Join(dir, "log"), entry: j.inherit("c")}, false,
		map[string]*os.File{shimapi.FileStdout: r, shimapi.FileStderr: stderr})
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, w, "world\n")
	_ = w.Close() // the pump sees the end
	<-streams.stream("stdout").done
	streams.close()
	if len(j.used) != 0 || len(j.free) != os.Getpagesize()/entrySize {
		t.Errorf("%d entries used and %d free of one part", len(j.used), len(j.free))
	}
	if at, err := unix.Seek(int(j.file.Fd()), int64(os.Getpagesize()), unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		t.Errorf("the journal takes room at %d (%v)", at, err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
}

// A read of a pipe in packet mode gives one packet, and a container can give its output that mode.
func TestAttackPackets(t *testing.T) {
	for name, packet := range map[string]string{
		"lines": "packet\n", "the newline apart": "\n", "lines that end in the next": "packet\nfrag", "many lines": strings.Repeat("\n", 4096),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j, err := openJournal(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer j.close()
			streams, out, path := journaled(t, j, dir, "c")
			if _, err := unix.FcntlInt(out.Fd(), unix.F_SETFL, unix.O_DIRECT); err != nil {
				t.Fatal(err)
			}
			var want string
			for i := range 300 {
				mustWrite(t, out, fmt.Sprint(i))
				mustWrite(t, out, packet)
				want += fmt.Sprint(i) + packet
			}
			streams.closeGiven()
			<-streams.stream("stdout").done
			streams.close()
			log, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := loggedBy(t, log, "stdout"); string(got) != want {
				t.Errorf("%d bytes logged, %d written", len(got), len(want))
			}
		})
	}
}

// More logs than a part of the journal has entries get a part each time, and give it back.
func TestJournalGrows(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	count := os.Getpagesize()/entrySize*2 + 1
	for i := range count {
		e := j.enter(fmt.Sprint(i))
		if e == nil {
			t.Fatal("no entry")
		}
		s := step{entry: e.stream("stderr"), source: -1}
		s.begin(0, 0)
		s.keep(fmt.Append(nil, i), len(fmt.Sprint(i)))
		s.wrote()
		s.takeOut()
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if j, err = openJournal(dir); err != nil {
		t.Fatal(err)
	}
	defer j.close()
	for i := range count {
		if got := j.inherit(fmt.Sprint(i)).stream("stderr").unended(); string(got) != fmt.Sprint(i) {
			t.Errorf("entry %d has %q", i, got)
		}
		j.forget(fmt.Sprint(i))
	}
	if len(j.parts) != 3 || len(j.used) != 0 || len(j.free) != 3*os.Getpagesize()/entrySize {
		t.Errorf("%d parts, %d entries used, %d free", len(j.parts), len(j.used), len(j.free))
	}
}

// BenchmarkStream logs what a container writes: many short lines, each written by itself, and as
// much at once as a pipe holds.
func BenchmarkStream(b *testing.B) {
	line := []byte("a line of some forty characters or so....\n")
	for name, piece := range map[string][]byte{"lines": line, "bulk": bytes.Repeat(line, 1500)} {
		for _, journaled := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/journal=%v", name, journaled), func(b *testing.B) { benchStream(b, piece, journaled) })
		}
	}
}

func benchStream(b *testing.B, piece []byte, journaled bool) {
	to := logTarget{path: filepath.Join(b.TempDir(), "log")}
	if journaled {
		j, err := openJournal(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		defer j.close()
		to.entry = j.enter("c")
	}
	streams, err := newStdio(to, false, false, [2]int{})
	if err != nil {
		b.Fatal(err)
	}
	defer streams.closeGiven()
	defer streams.close()
	out := streams.given[1]
	records := int64(len(piece) + bytes.Count(piece, []byte("\n"))*len("2006-01-02T15:04:05.000000000Z stdout F "))
	b.SetBytes(int64(len(piece)))
	for b.Loop() {
		if _, err := out.Write(piece); err != nil {
			b.Fatal(err)
		}
		for logged, waiting := int64(0), 0; logged < records || waiting > 0; {
			if waiting, err = unix.IoctlGetInt(int(out.Fd()), unix.TIOCINQ); err != nil {
				b.Fatal(err)
			}
			if logged, _, err = factsOf(streams.log.file); err != nil {
				b.Fatal(err)
			}
		}
		if err := streams.log.file.Truncate(0); err != nil {
			b.Fatal(err)
		}
	}
}

// journaled gives the streams of a container whose output is logged with a journal, its stdout and its
// log.
func journaled(t *testing.T, j *journal, dir, name string) (streams *stdio, out *os.File, log string) {
	t.Helper()
	log = filepath.Join(dir, name)
	streams, err := newStdio(logTarget{path: log, entry: j.enter(name)}, false, false, [2]int{})
	if err != nil {
		t.Fatal(err)
	}
	return streams, streams.given[1], log
}

func waitLogged(t *testing.T, log, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		data, err := os.ReadFile(log)
		if err == nil && bytes.Contains(data, []byte(text)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has no %q (%v)", log, text, err)
		}
	}
}

// A container can hold the lock of its pipe for as long as it likes: with a splice from a socket
// that nothing comes from. Only its own output waits for that.
func TestAttackHeldPipe(t *testing.T) {
	var stuck sync.WaitGroup
	var ends []int // a splice ends with the end of its socket that is here
	defer func() {
		for _, fd := range ends {
			_ = unix.Close(fd)
		}
		stuck.Wait()
	}()
	for range 2 * cap(scratches) {
		r, w, err := pipe(0, [2]int{})
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, w, "more\n")
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, pair[1])
		t.Cleanup(func() { // after the splice
			_ = unix.Close(pair[0])
			_ = r.Close()
			_ = w.Close()
		})
		from, to := int(r.Fd()), int(w.Fd())
		inThread(t, &stuck, unix.SYS_SPLICE, func() { _, _ = unix.Splice(pair[0], nil, to, nil, 1, 0) }) // 0 bytes
		inThread(t, &stuck, unix.SYS_TEE, func() {
			if n, err := peek(from, make([]byte, 10)); n != 5 || err != nil {
				t.Errorf("peeked at %d bytes, %v", n, err)
			}
		})
	}
	r, w, err := pipe(0, [2]int{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	mustWrite(t, w, "works\n")
	if n, err := peek(int(r.Fd()), make([]byte, 10)); n != 6 || err != nil {
		t.Errorf("peeked at %d bytes, %v", n, err)
	}
}

// inThread runs f in a thread of its own, and returns when that is in a system call.
func inThread(t *testing.T, running *sync.WaitGroup, number int, f func()) {
	t.Helper()
	tid := make(chan int, 1)
	running.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid <- unix.Gettid()
		f()
	})
	awaitSyscall(t, <-tid, number)
}

// awaitSyscall waits until a thread sleeps in a system call.
func awaitSyscall(t *testing.T, tid int, number int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/syscall", tid))
		if err == nil && strings.HasPrefix(string(data), fmt.Sprint(number, " ")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("thread %d: %q, %v", tid, data, err)
		}
	}
}

// A container that reads its own output gets some of it, and the log goes on.
func TestAttackOwnOutputRead(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	streams, out, log := journaled(t, j, dir, "c")
	thief, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", out.Fd()), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	stolen := 0
	for range 5000 {
		mustWrite(t, out, "line\n")
		var buf [3]byte
		n, _ := unix.Read(int(thief.Fd()), buf[:]) // an error: the pump was faster
		stolen += max(n, 0)
	}
	if err := thief.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes stolen", stolen)
	mustWrite(t, out, "\n\n\n\nthe last\n") // the thief may have made the pump take three bytes of it
	waitLogged(t, log, "the last")
	streams.closeGiven()
	streams.close()
}

// Streams that can't be made for want of descriptors are an error, and leave nothing.
func TestStreamsWithoutDescriptors(t *testing.T) {
	j, err := openJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	to := logTarget{path: filepath.Join(t.TempDir(), "log")}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	free, err := unix.FcntlInt(j.file.Fd(), unix.F_DUPFD_CLOEXEC, 0) // the lowest that is free
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(free)
	failed := 0
	for more := range uint64(12) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free) + more, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
		to.entry = j.enter("c")
		streams, err := newStdio(to, false, false, [2]int{})
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
		switch {
		case err == nil:
			streams.closeGiven()
			streams.close()
		case isOurShortage(err):
			failed++
		default:
			t.Errorf("with %d descriptors: %v", more, err)
		}
	}
	if failed == 0 {
		t.Error("nothing failed")
	}
	if len(j.used) != 0 {
		t.Error("the log keeps its entry")
	}
}
