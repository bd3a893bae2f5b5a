package shim

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

func testPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := pipe(0, [2]int{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

// TestSleeper: a watch tells once of each arm that a file can be read or has ended, and of
// nothing once it was stopped.
func TestSleeper(t *testing.T) {
	r, w := testPipe(t)
	told := make(chan struct{}, 8)
	watch := sleepers().watch(r, func() { told <- struct{}{} })
	if !watch.arm() {
		t.Fatal("a pipe can't be watched")
	}
	for range 2 {
		if _, err := w.WriteString("x"); err != nil {
			t.Fatal(err)
		}
	}
	<-told
	for range 2 { // there is something to read still
		if !watch.arm() {
			t.Fatal("a watch can't be armed again")
		}
		<-told
	}
	if watch.stop() || watch.arm() {
		t.Error("a watch that has told is armed")
	}
	if len(told) > 0 {
		t.Errorf("%d times more told than asked", len(told))
	}
	again := sleepers().watch(r, func() { told <- struct{}{} })
	if _, err := r.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if !again.arm() || !again.stop() || again.stop() {
		t.Error("a watch that has not told is not stopped")
	}
	ended := sleepers().watch(r, func() { told <- struct{}{} })
	_ = w.Close()
	if !ended.arm() {
		t.Error("a pipe without a writer can't be watched")
	}
	<-told
	_ = r.Close()
	if ended.arm() {
		t.Error("a closed file is watched")
	}
	sleepers().mu.Lock()
	defer sleepers().mu.Unlock()
	if n := len(sleepers().watches); n > 0 {
		t.Errorf("%d watches are left", n)
	}
}

// TestSleeperOfClosedFiles: a file that a duplicate keeps open is no longer watched after a
// stop, and another file with its number has a watch of its own.
func TestSleeperOfClosedFiles(t *testing.T) {
	told := make(chan string, 8)
	r, w := testPipe(t)
	kept, err := duplicate(r)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	first := sleepers().watch(r, func() { told <- "first" })
	if !first.arm() || !first.stop() {
		t.Fatal("the first is not watched")
	}
	_ = r.Close()
	r2, w2 := testPipe(t)
	second := sleepers().watch(r2, func() { told <- "second" })
	if !second.arm() {
		t.Fatal("the second is not watched")
	}
	for _, f := range []*os.File{w, w2} {
		if _, err := f.WriteString("x"); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-told; got != "second" || len(told) > 0 {
		t.Errorf("told of the %s and %d more", got, len(told))
	}
	second.stop()
}

// TestWithoutSleeper: where the kernel gives none, the caller waits.
func TestWithoutSleeper(t *testing.T) {
	var none *sleeper
	r, _ := testPipe(t)
	if w := none.watch(r, func() { t.Error("told") }); w.arm() || w.stop() {
		t.Error("a watch of no sleeper is armed")
	}
}

// TestIdleContainer: a container of which nothing is heard has no goroutine for its streams and
// its end. Its output and its end are noted all the same.
func TestIdleContainer(t *testing.T) {
	before := runtime.NumGoroutine()
	to := logTarget{path: filepath.Join(t.TempDir(), "log")}
	io, err := newStdio(to, false, false, [2]int{})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "read line; echo $line; read line; exit 3")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = io.given[1], io.given[2]
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.closeGiven()
	p := newStarted(cmd.Process, cmd.Process.Pid)
	ended := make(chan end, 1)
	onEnd(p, func() { ended <- p.wait() })
	idle := func() bool { return runtime.NumGoroutine() <= before }
	shimnode.Eventually(t, "an idle container has no goroutine", idle)
	if _, err := in.Write([]byte("one\n")); err != nil {
		t.Fatal(err)
	}
	shimnode.WaitLog(t, to.path, " F one\n")
	shimnode.Eventually(t, "it has none again", idle)
	_ = in.Close()
	if e := <-ended; e.Code != 3 {
		t.Errorf("it ended with %+v", e)
	}
	io.drain()
	io.close()
	log, err := os.ReadFile(to.path)
	if err != nil || strings.Count(string(log), "\n") != 1 {
		t.Errorf("the log is %q, %v", log, err)
	}
}

// TestStopOfAnIdleStream: a stream is ended while it is idle, as it becomes so, and twice.
func TestStopOfAnIdleStream(t *testing.T) {
	for _, idle := range []bool{true, false} {
		r, w := testPipe(t)
		s := &stdio{}
		s.run("stdout", r)
		st := s.streams[0]
		if idle {
			shimnode.Eventually(t, "idle", func() bool {
				st.mu.Lock()
				defer st.mu.Unlock()
				return st.idle != nil
			})
		}
		s.close()
		s.close()
		if _, err := w.WriteString("x"); err == nil {
			t.Error("the stream is open")
		}
		if !isClosed(st.done) {
			t.Error("the stream has not ended")
		}
	}
}

// TestOnEndOfOthers: what no pidfd tells of is waited for in a goroutine.
func TestOnEndOfOthers(t *testing.T) {
	done := make(chan struct{})
	onEnd(ended{}, func() { close(done) })
	<-done
	zombie := exec.Command("true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	if err := awaitEnd(zombie.Process.Pid); err != nil {
		t.Fatal(err)
	}
	p := newStarted(zombie.Process, zombie.Process.Pid) // it has ended before anybody waits
	status := make(chan shimapi.ExitStatus)
	onEnd(p, func() { status <- p.wait().ExitStatus })
	if got := <-status; got.Code != 0 || got.Signal != 0 {
		t.Errorf("it ended with %+v", got)
	}
	if err := p.signal(unix.SIGKILL); err == nil {
		t.Error("a process that has ended was signalled")
	}
}
