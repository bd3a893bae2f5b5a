package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"berth/test/program"
)

// What the tests of exec, attach and port-forward have in common: real clients
// (test/streams), each a process that can be killed.

// clients is how many of a kind are killed.
const clients = 100

var streamPrograms = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(shared.Dir, "streams")
	err := os.Mkdir(dir, 0o755)
	for _, name := range []string{"client", "kubelet"} {
		if err == nil {
			err = program.Build("test/streams/"+name, filepath.Join(dir, name))
		}
	}
	return dir, err
})

func streamProgram(t *testing.T, name string) string {
	t.Helper()
	dir, err := streamPrograms()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// path is a way from a client to the runtime.
type path struct {
	name      string
	transport string
	kubelet   bool
}

// paths are all that are in use: crictl asks the runtime itself; kubectl's WebSocket is
// turned into SPDY by the API server's code, and its SPDY is passed through.
var paths = []path{
	{"SPDY", "spdy", false}, {"WebSocket v5", "v5", false}, {"WebSocket v4", "v4", false},
	{"SPDY by the kubelet", "spdy", true}, {"WebSocket v5 by the kubelet", "v5", true},
}

// streams starts clients of a node's streams.
type streams struct {
	t       *testing.T
	s       *suite
	kubelet string // its URL
}

func newStreams(t *testing.T, s *suite) *streams {
	t.Helper()
	c := exec.Command(streamProgram(t, "kubelet"), s.Endpoint) // its libraries log every client that goes
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // its end
		c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return &streams{t, s, strings.TrimSpace(line)}
}

// streamClient is a running client.
type streamClient struct {
	t      *testing.T
	what   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

func (s *streams) start(p path, args ...string) *streamClient {
	s.t.Helper()
	flags := []string{"-transport", p.transport}
	if p.kubelet {
		flags = append(flags, "-via", s.kubelet)
	} else {
		flags = append(flags, "-endpoint", s.s.Endpoint)
	}
	c := &streamClient{t: s.t, what: p.name + " " + strings.Join(args, " ")}
	c.cmd = exec.Command(streamProgram(s.t, "client"), append(flags, args...)...)
	c.cmd.Stderr = &c.stderr
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	c.stdout = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.end(syscall.SIGKILL) })
	return c
}

// says waits for the line.
func (c *streamClient) says(line string) {
	c.t.Helper()
	got, err := c.stdout.ReadString('\n')
	if strings.TrimRight(got, "\r\n ") != line {
		c.end(syscall.SIGKILL)
		c.t.Fatalf("%s says %q, %v, want %q; %s", c.what, got, err, line, c.stderr.String())
	}
}

// end sends a signal, waits and returns the code; -1 when it was killed.
func (c *streamClient) end(sig syscall.Signal) int {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Signal(sig) // it may have ended
	}
	return c.wait()
}

// wait gives all that the client still has to say a reader, so that it can end.
func (c *streamClient) wait() int {
	if c.cmd.ProcessState == nil {
		_, _ = io.Copy(io.Discard, c.stdout)
		_ = c.cmd.Wait()
	}
	return c.cmd.ProcessState.ExitCode()
}

// waves starts n clients and kills them with -9, some at a time; begin returns one that
// is in the middle of its work.
func waves(n int, begin func(i int) *streamClient) {
	const atOnce = 20
	for first := 0; first < n; first += atOnce {
		var all []*streamClient
		for i := first; i < min(first+atOnce, n); i++ {
			all = append(all, begin(i))
		}
		for _, c := range all {
			c.end(syscall.SIGKILL)
		}
	}
}

// ledger is what the runtime has of a container and its streams.
type ledger struct {
	processes, daemon, shim, sockets int
}

// count counts the container's processes, the descriptors of berthd and of the shim,
// and the pod's TCP sockets that are not only a timer.
func (c *ctr) count(t *testing.T) (l ledger) {
	t.Helper()
	all := pids(t, c)
	l.processes = len(all)
	l.daemon, l.shim = openFiles(t, c.p.s.PID()), openFiles(t, c.p.s.shim(t))
	const timeWait = "06"
	for line := range strings.Lines(procFile(t, all[0], "net/tcp")) {
		if f := strings.Fields(line); len(f) > 3 && f[3] != timeWait {
			l.sockets++
		}
	}
	return l
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// flat waits until nothing is left of what was opened since before.
func (c *ctr) flat(t *testing.T, before ledger) {
	t.Helper()
	var now ledger
	defer func() {
		if t.Failed() {
			t.Logf("before %+v, now %+v", before, now)
		}
	}()
	eventually(t, "nothing is left of the clients", func() bool {
		now = c.count(t)
		return now.processes <= before.processes && now.daemon <= before.daemon && now.shim <= before.shim && now.sockets <= before.sockets
	})
}
