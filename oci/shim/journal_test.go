package shim

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
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
	streams, err := inheritStdio(logTarget{path: filepath.Join(dir, "log"), entry: j.enter("c")}, false, files)
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
		defer r.Close()
		sources = append(sources, r)
		writers.Go(func() {
			defer w.Close()
			writeUntil(over, io.MultiWriter(w, &sent[i]))
		})
	}
	for range kills {
		logger, ready := startLogger(t, dir, sources)
		<-ready
		time.Sleep(rand.N(3 * time.Millisecond)) // the moment of the kill
		if err := logger.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = logger.Wait() // it was killed
	}
	close(over)
	last, _ := startLogger(t, dir, sources)
	writers.Wait()
	if err := last.Wait(); err != nil {
		t.Fatal(err)
	}
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
	const record = "2026-01-02T03:04:05.000000000Z stdout F hello\n"
	for _, c := range []struct {
		name string
		cut  func(t *testing.T, e *entry, l *logFile, s step)
	}{
		{"before it began", func(*testing.T, *entry, *logFile, step) {}},
		{"before the write", func(_ *testing.T, e *entry, l *logFile, s step) { e.begin(s, l.inode, l.size, len(record)) }},
		{"in the write", func(t *testing.T, e *entry, l *logFile, s step) {
			e.begin(s, l.inode, l.size, len(record))
			mustWrite(t, l, record[:20])
		}},
		{"after the write", func(t *testing.T, e *entry, l *logFile, s step) {
			e.begin(s, l.inode, l.size, len(record))
			mustWrite(t, l, record)
		}},
		{"before its end is noted", func(t *testing.T, e *entry, l *logFile, s step) {
			e.begin(s, l.inode, l.size, len(record))
			mustWrite(t, l, record)
			takeOut(s.source, e.seenAt, s.data[1:])
		}},
		{"after its end", func(t *testing.T, e *entry, l *logFile, s step) {
			e.begin(s, l.inode, l.size, len(record))
			mustWrite(t, l, record)
			e.commit(s)
		}},
		{"while a line is kept", func(_ *testing.T, e *entry, _ *logFile, s step) {
			s.data, s.left = s.data[:3], 3
			e.begin(s, 0, 0, 0)
		}},
		{"after a line was kept", func(_ *testing.T, e *entry, _ *logFile, s step) {
			s.data, s.left = s.data[:3], 3
			e.keep(s)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
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
			r, w, err := pipe(0, [2]int{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			mustWrite(t, w, "hello\n")
			fd, err := unix.FcntlInt(r.Fd(), unix.F_DUPFD_CLOEXEC, 3)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if err := unix.SetNonblock(fd, true); err != nil {
				t.Fatal(err)
			}
			c.cut(t, to.entry, l, step{stream: "stdout", source: fd, data: []byte("hello\n")})
			if err := j.close(); err != nil { // as a kill does
				t.Fatal(err)
			}
			heir(t, dir, r, w)
			log, err := os.ReadFile(to.path)
			if err != nil {
				t.Fatal(err)
			}
			if got := loggedBy(t, log, "stdout"); string(got) != "hello\nworld\n" {
				t.Errorf("logged %q", got)
			}
		})
	}
}

func mustWrite(t *testing.T, to any, text string) {
	t.Helper()
	if l, ok := to.(*logFile); ok {
		to = l.file
	}
	if _, err := io.WriteString(to.(io.Writer), text); err != nil {
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
	streams, err := inheritStdio(logTarget{path: filepath.Join(dir, "log"), entry: j.enter("c")}, false,
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
	var stat unix.Stat_t
	if err := unix.Fstat(int(j.file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	if got := stat.Blocks * 512; got > int64(os.Getpagesize()) {
		t.Errorf("the journal takes %d bytes", got)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
}

// Each read of a pipe in packet mode gives one packet, and a container can give its output that mode.
func TestPacketsAreTakenOut(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	to := logTarget{path: filepath.Join(dir, "log"), entry: j.enter("c")}
	streams, err := newStdio(to, false, false, [2]int{})
	if err != nil {
		t.Fatal(err)
	}
	out := streams.given[1]
	if _, err := unix.FcntlInt(out.Fd(), unix.F_SETFL, unix.O_DIRECT); err != nil {
		t.Fatal(err)
	}
	var want string
	for i := range 1000 {
		line := fmt.Sprintf("packet %d\n", i)
		mustWrite(t, out, line)
		want += line
	}
	streams.closeGiven()
	<-streams.stream("stdout").done
	streams.close()
	log, err := os.ReadFile(to.path)
	if err != nil {
		t.Fatal(err)
	}
	if got := loggedBy(t, log, "stdout"); string(got) != want {
		t.Errorf("%d bytes logged, %d written", len(got), len(want))
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
		e.keep(step{stream: "stderr", source: -1, data: fmt.Append(nil, i), left: len(fmt.Sprint(i))})
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if j, err = openJournal(dir); err != nil {
		t.Fatal(err)
	}
	defer j.close()
	for i := range count {
		if got := j.enter(fmt.Sprint(i)).line("stderr"); string(got) != fmt.Sprint(i) {
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
	b.SetBytes(int64(len(piece)))
	for b.Loop() {
		if _, err := out.Write(piece); err != nil {
			b.Fatal(err)
		}
		for logged, waiting := int64(0), 0; logged < int64(len(piece)) || waiting > 0; {
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
