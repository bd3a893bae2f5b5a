package shims_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/shimnode"
)

const (
	// stubName is the name under which the program of the tests is a shim that holds nothing: it
	// passes each adoption, and whatever else it has no answer to, on to the test.
	stubName = "berth-shim-stub"
	// controlName is the socket of the test, in the state directory.
	controlName = "control.sock"
)

// stubCall is what a stub was asked.
type stubCall struct {
	PID    int             `json:"pid"`
	Method string          `json:"method"`
	Body   json.RawMessage `json:"body"`
}

// id is that of the pod or container which the call is about.
func (c stubCall) id(t *testing.T) string {
	var r shimapi.IDRequest
	if err := json.Unmarshal(c.Body, &r); err != nil {
		t.Errorf("a request %s: %v", c.Method, err)
	}
	return r.ID
}

// stubVerdict is what a stub does with a call: it answers, or it writes its last words and dies.
type stubVerdict struct {
	Error *shimapi.Error `json:"error"`
	Dies  stubDeath      `json:"dies"`
	Says  string         `json:"says"`
}

type stubDeath int

const (
	livesOn      stubDeath = iota
	diesOfBug              // the code of Go's own fatal errors
	diesOfSignal           // SIGKILL
)

// runStub serves as a shim does that was started in the same way.
func runStub() error {
	dir := flag.String("dir", "", "directory of the shim")
	version := flag.String("version", "", "berth's version")
	_ = flag.String("log-level", "", "of no use here")
	flag.Parse()
	_ = unix.Close(5) // the program
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(*dir, shimapi.SocketName)})
	if err != nil {
		return err
	}
	hello := shimapi.HelloResponse{ID: filepath.Base(*dir), PID: os.Getpid(), Version: *version}
	if err := atomicfile.WriteVolatile(filepath.Join(*dir, shimapi.IdentityName), hello); err != nil {
		return err
	}
	ready := os.NewFile(3, "ready")
	if _, err := fmt.Fprintln(ready, "ready"); err != nil {
		return err
	}
	_ = ready.Close() // a pipe
	for {
		conn, err := socket.AcceptUnix()
		if err != nil {
			return err
		}
		go serveStub(conn, *dir, hello)
	}
}

func serveStub(conn *net.UnixConn, dir string, hello shimapi.HelloResponse) {
	defer conn.Close()
	var request shimapi.Request
	files, err := shimapi.ReadFrame(conn, &request)
	if err != nil {
		return // the client hung up
	}
	shimapi.CloseFiles(files)
	var answer shimapi.Response
	switch request.Method {
	case shimapi.MethodHello:
		answer.Body, err = json.Marshal(hello)
	case shimapi.MethodList:
		answer.Body, err = json.Marshal(shimapi.ListResponse{})
	case shimapi.MethodWatch:
		_, _ = conn.Read(make([]byte, 1)) // there are no events: this is the client's end
		return
	case shimapi.MethodShutdown:
		_ = os.RemoveAll(dir)
		os.Exit(0)
	default:
		answer.Error = askTest(dir, request)
	}
	if err == nil {
		_ = shimapi.WriteFrame(conn, answer) // the client may have hung up
	}
}

// askTest lets the test decide what becomes of a request.
func askTest(dir string, request shimapi.Request) *shimapi.Error {
	var verdict stubVerdict
	control, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(dir, "..", "..", controlName)})
	if err == nil {
		defer control.Close()
		err = shimapi.WriteFrame(control, stubCall{os.Getpid(), request.Method, request.Body})
	}
	if err == nil {
		_, err = shimapi.ReadFrame(control, &verdict)
	}
	if err != nil {
		return &shimapi.Error{Kind: shimapi.KindInternal, Message: "the test is over: " + err.Error()}
	}
	if verdict.Dies != livesOn {
		_, _ = os.Stderr.WriteString(verdict.Says)
		if verdict.Dies == diesOfSignal {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		os.Exit(2)
	}
	return verdict.Error
}

// stubs is a set whose shims are stubs, with one shim that has a pod "p".
type stubs struct {
	t *testing.T
	*shims.Set
	shim *shims.Shim
	dir  string // the state directory
}

// newStubs starts a stub. decide tells what a stub does with a call that the stubs have no answer
// to, among them all adoptions; it is called concurrently.
func newStubs(t *testing.T, decide func(stubCall) stubVerdict) *stubs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "berth-stub-") // short, as the path of a socket has to be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listenForStubs(t, filepath.Join(dir, controlName), decide)
	self, err := os.Executable()
	program := filepath.Join(dir, stubName)
	if err := errors.Join(err, os.Symlink(self, program)); err != nil {
		t.Fatal(err)
	}
	set, err := shims.Open(t.Context(), shims.Config{Binary: program, StateDir: dir, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	s := &stubs{t: t, Set: set, dir: dir}
	t.Cleanup(s.end)
	if s.shim, err = set.ForNewPod(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.shim.RunPod(t.Context(), &shimapi.RunPodRequest{ID: "p", Dir: dir}); err != nil {
		t.Fatal(err)
	}
	return s
}

// end kills the stub, if there is one, and closes the set.
func (s *stubs) end() {
	serving := s.Serving()
	if err := s.Close(); err != nil {
		s.t.Error(err)
	}
	for _, shim := range serving {
		_ = unix.Kill(shim.PID, unix.SIGKILL) // of a process that was not waited for, or that has ended
		proc := fmt.Sprintf("/proc/%d", shim.PID)
		shimnode.Eventually(s.t, "the stub was waited for", func() bool { return !shimnode.OnDisk(proc) })
	}
	shims.RemoveShimCgroup(s.dir) // the set could not, as the stub was in it
}

func listenForStubs(t *testing.T, path string, decide func(stubCall) stubVerdict) {
	t.Helper()
	control, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = control.Close() })
	go func() {
		for {
			conn, err := control.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				var call stubCall
				if _, err := shimapi.ReadFrame(conn, &call); err != nil {
					return // the stub has died
				}
				_ = shimapi.WriteFrame(conn, decide(call)) // the same
			}()
		}
	}()
}

// kill kills the process that serves the shim.
func (s *stubs) kill() {
	s.t.Helper()
	if err := unix.Kill(s.shim.PID(), unix.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
}

// next waits for an event of a kind, and passes only those over that tell of a delay.
func (s *stubs) next(kind string) shims.Event {
	s.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case e := <-s.Events():
			if e.Kind == kind {
				return e
			}
			if e.Kind != shims.EventDelayed {
				s.t.Fatalf("an event %s of %q: %s; want %s", e.Kind, e.Record.ID, e.Record.Message, kind)
			}
		case <-timeout:
			s.t.Fatalf("no event %s", kind)
		}
	}
}
