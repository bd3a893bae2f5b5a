package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/node"
)

const (
	printedSize = 1 << 30
	rotateSize  = 100 << 20
	// logPart is where a long line is split.
	logPart = 16 << 10
	// shimGrowth is how much more memory than before the shim may use meanwhile.
	shimGrowth  = 64 << 20
	logPatience = 5 * time.Minute
)

// S20: 1 GiB of log in long lines, while the file is renamed and opened anew
// every 100 MiB as the kubelet does it. Short lines are in [TestLogRotation], the
// format of one file is in [TestLogFormat]. The files are on a tmpfs and go as
// soon as they were read.
func TestS20LogRotation(t *testing.T) {
	s := own(t, node.Options{Tmpfs: true})
	p := s.pod(t)
	s.pull(t, busybox)
	p.idle("before").Sh("true") // what the shim needs for any container
	r := &rotation{t: t, shim: s.shim(t), log: startLogReader(t, probeFile(t))}
	r.before = r.memory("VmRSS")
	c := p.start("c", "", runs(t, "lines", strconv.Itoa(printedSize)))
	r.follow(c)
	if st := c.Ended(); st.GetExitCode() != 0 {
		t.Fatalf("the container ended with %d", st.GetExitCode())
	}
	r.log.read(r.file)
	r.log.finish()
	if r.count < 3 {
		t.Errorf("%d rotations of %d MiB", r.count, printedSize>>20)
	}
	peak := r.memory("VmHWM")
	if peak > r.before+shimGrowth {
		t.Errorf("the shim's memory was %d MiB, grew to %d MiB", r.before>>20, peak>>20)
	}
	t.Logf("%d rotations, %d records in parts, %d whole; shim %d KiB before, %d KiB at most", r.count, r.log.parts, r.log.whole, r.before>>10, peak>>10)
}

// rotation is the kubelet's side of a log.
type rotation struct {
	t      *testing.T
	file   string
	shim   int
	before int
	count  int
	log    *logReader
}

// memory is a field of the shim's /proc/PID/status in bytes.
func (r *rotation) memory(field string) int {
	r.t.Helper()
	n, err := strconv.Atoi(strings.TrimSuffix(statusField(r.t, r.shim, field), " kB"))
	if err != nil {
		r.t.Fatal(err)
	}
	return n << 10
}

// follow rotates the log whenever it has grown enough, until the container ends.
func (r *rotation) follow(c *ctr) {
	r.t.Helper()
	r.file = c.LogFile()
	watch, err := fsnotify.NewWatcher()
	if err == nil {
		err = watch.Add(filepath.Dir(r.file))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	defer watch.Close()
	deadline := time.After(logPatience)
	stopped := c.p.s.events.of(c.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	for {
		select {
		case <-watch.Events:
			if info, err := os.Stat(r.file); err == nil && info.Size() >= rotateSize {
				r.rotate(c)
			}
		case err := <-watch.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) { // others follow
				r.t.Fatal(err)
			}
		case <-stopped:
			return
		case <-deadline:
			r.t.Fatalf("the container did not end within %v", logPatience)
		}
	}
}

// rotate reads and removes what it renamed: no byte comes there any more.
func (r *rotation) rotate(c *ctr) {
	r.t.Helper()
	r.count++
	old := fmt.Sprintf("%s.%d", r.file, r.count)
	if err := os.Rename(r.file, old); err != nil {
		r.t.Fatal(err)
	}
	_, err := c.p.s.Runtime.ReopenContainerLog(within(r.t), &runtimeapi.ReopenContainerLogRequest{ContainerId: c.ID})
	if err != nil && c.Status().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING {
		r.t.Fatal(err)
	}
	if now := r.memory("VmRSS"); now > r.before+shimGrowth {
		r.t.Errorf("at rotation %d the shim's memory is %d MiB, it was %d MiB", r.count, now>>20, r.before>>20)
	}
	r.log.read(old)
}

// logReader compares the records of logs with the output of the same program
// that is run here.
type logReader struct {
	t            *testing.T
	program      *exec.Cmd
	want         *bufio.Reader
	at           int // bytes of output read
	last         string
	parts, whole int
	expected     []byte
}

func startLogReader(t *testing.T, program string) *logReader {
	t.Helper()
	l := &logReader{t: t, program: exec.Command(program, "lines", strconv.Itoa(printedSize)), expected: make([]byte, logPart+1)}
	out, err := l.program.StdoutPipe()
	if err == nil {
		err = l.program.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.program.Process.Kill() // after a failure it waits for its reader
		_ = l.program.Wait()
	})
	l.want = bufio.NewReaderSize(out, 256<<10)
	return l
}

// read takes a whole file and removes it.
func (l *logReader) read(file string) {
	l.t.Helper()
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return // it was renamed, and nothing came after
	}
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 256<<10)
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			break
		}
		if err == nil {
			err = l.record(line)
		}
		if err != nil {
			l.t.Fatalf("%s, line %d, byte %d of the output: %v\n%.100q", filepath.Base(file), n, l.at, err, line)
		}
	}
	if err := os.Remove(file); err != nil {
		l.t.Fatal(err)
	}
}

// record reads "TIME stdout TAG TEXT\n".
func (l *logReader) record(line []byte) error {
	f := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 4)
	if len(f) != 4 || string(f[1]) != "stdout" {
		return errors.New("not a record of stdout")
	}
	if at := string(f[0]); at < l.last {
		return fmt.Errorf("it is older than the one before, of %s", l.last)
	} else if at != l.last {
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			return err
		}
		l.last = at
	}
	text := f[3]
	switch tag := string(f[2]); {
	case tag == "P" && len(text) == logPart:
		l.parts++
	case tag == "F" && len(text) <= logPart:
		l.whole++
		text = line[len(line)-1-len(text):] // with its newline
	default:
		return fmt.Errorf("%d bytes with tag %s", len(text), tag)
	}
	want := l.expected[:len(text)]
	if _, err := io.ReadFull(l.want, want); err != nil {
		return fmt.Errorf("more than was printed: %w", err)
	}
	if !bytes.Equal(text, want) {
		return fmt.Errorf("the container printed %.100q", want)
	}
	l.at += len(text)
	return nil
}

// finish checks that nothing is missing at the end.
func (l *logReader) finish() {
	l.t.Helper()
	if rest, err := io.Copy(io.Discard, l.want); rest != 0 || err != nil || l.at != printedSize {
		l.t.Errorf("the log has %d bytes, %d are missing: %v", l.at, rest, err)
	}
}
