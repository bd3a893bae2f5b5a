package shim

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// connected returns both ends of a connection between a client and a shim.
func connected(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conn, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		ends[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { _ = conn.Close() })
	}
	return ends[0], ends[1]
}

// bare returns a server that can't start processes, with the verbs of its parts.
func bare() *Server {
	s := &Server{config: Config{ID: "bare", Dir: "/nonexistent", Version: "test"}, registry: newRegistry(), hub: newHub(), left: make(chan struct{})}
	s.wire("boot")
	return s
}

// asked sends one request and returns the response of the server.
func asked(t *testing.T, s *Server, method, body string, files ...*os.File) shimapi.Response {
	t.Helper()
	client, server := connected(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.serve(server)
	}()
	if err := shimapi.WriteFrame(client, shimapi.Request{Method: method, Body: json.RawMessage(body)}, files...); err != nil {
		t.Fatal(err)
	}
	var r shimapi.Response
	if _, err := shimapi.ReadFrame(client, &r); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	<-ended
	return r
}

func TestVerbsRefuse(t *testing.T) {
	for _, c := range []struct {
		method, body string
		want         shimapi.Kind // "": no error
	}{
		{"no-such-method", `{}`, shimapi.KindInvalid},
		{shimapi.MethodRunPod, `{"id":1}`, shimapi.KindInvalid},
		{shimapi.MethodRunPod, `{}`, shimapi.KindInvalid},
		{shimapi.MethodRunPod, `{"id":"p","dir":"/d","hostname":"h"}`, shimapi.KindInvalid},
		{shimapi.MethodRunPod, `{"id":"p","dir":"/d","sysctls":{"kernel.pid_max":"1"}}`, shimapi.KindInvalid},
		{shimapi.MethodRunPod, `{"id":"p","dir":"/d","sysctls":{"net.core.somaxconn":"1"}}`, shimapi.KindInvalid},
		{shimapi.MethodCreate, `{"id":"c","pod":"p","dir":"/d","spec":[]}`, shimapi.KindInvalid},
		{shimapi.MethodCreate, `{"id":"c","pod":"p","dir":"/d","spec":{}}`, shimapi.KindInvalid},
		{shimapi.MethodCreate, `{"id":"c","pod":"p","dir":"/d","spec":{"process":{"args":["a"]},"root":{"path":"rel"}}}`, shimapi.KindInvalid},
		{shimapi.MethodCreate, `{"id":"c","pod":"p","dir":"/d","spec":{"process":{"args":["a"]},"root":{"path":"/"},"linux":{"cgroupsPath":"/"}}}`, shimapi.KindInvalid},
		{shimapi.MethodStart, `{"id":"c"}`, shimapi.KindNotFound},
		{shimapi.MethodKill, `{"id":"c","signal":9}`, shimapi.KindNotFound},
		{shimapi.MethodUpdate, `{"id":"c"}`, shimapi.KindNotFound},
		{shimapi.MethodUpdatePod, `{"id":"p","limits":{"path":"/p"}}`, shimapi.KindNotFound},
		{shimapi.MethodExec, `{"id":"c"}`, shimapi.KindNotFound},
		{shimapi.MethodAttach, `{"id":"c"}`, shimapi.KindNotFound},
		{shimapi.MethodResize, `{"id":"c"}`, shimapi.KindNotFound},
		{shimapi.MethodReopen, `{"id":"c"}`, shimapi.KindNotFound},
		{shimapi.MethodCloseStdin, `{"id":"c"}`, shimapi.KindNotFound},
		{shimapi.MethodHandoverState, `{"id":"c"}`, shimapi.KindNotFound},
		{shimapi.MethodReportExit, `{"id":"c"}`, shimapi.KindNotFound},
		{shimapi.MethodAdopt, `{"id":"c","dir":"/nonexistent"}`, shimapi.KindNotFound},
		{shimapi.MethodAdopt, `{"id":"c","pod":"p","dir":"/nonexistent"}`, shimapi.KindNotFound},
		{shimapi.MethodStopPod, `{"id":"p"}`, ""},
		{shimapi.MethodRemovePod, `{"id":"p"}`, ""},
		{shimapi.MethodDelete, `{"id":"c"}`, ""},
		{shimapi.MethodDelete, `{"id":"../c"}`, ""},
		{shimapi.MethodHello, `{}`, ""},
		{shimapi.MethodList, `{}`, ""},
	} {
		r := asked(t, bare(), c.method, c.body)
		var got shimapi.Kind
		if r.Error != nil {
			got = r.Error.Kind
		}
		if got != c.want {
			t.Errorf("%s %s: %q (%v), want %q", c.method, c.body, got, r.Error, c.want)
		}
	}
}

// TestPanicEndsOneCall: the client gets an error, and its files are closed.
func TestPanicEndsOneCall(t *testing.T) {
	s := bare()
	s.verbs["fall"] = func(*call) (any, error) { panic("over") }
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	answer := asked(t, s, "fall", `{}`, w)
	if answer.Error == nil || answer.Error.Kind != shimapi.KindInternal || !strings.Contains(answer.Error.Message, "over") {
		t.Errorf("response %+v, want an internal error that names the panic", answer)
	}
	_ = w.Close()
	_ = r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := r.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Errorf("read %d bytes, %v, want the end of the pipe: the shim has kept a file", n, err)
	}
	if again := asked(t, s, shimapi.MethodList, `{}`); again.Error != nil {
		t.Errorf("the next call failed: %v", again.Error)
	}
}

func TestShutdown(t *testing.T) {
	s := bare()
	s.registry.pods["p"] = &pod{}
	if r := asked(t, s, shimapi.MethodShutdown, `{}`); r.Error == nil || r.Error.Kind != shimapi.KindExists {
		t.Errorf("shutdown with a pod: %+v, want %s", r, shimapi.KindExists)
	}
	if isClosed(s.left) {
		t.Error("a shim with a pod leaves")
	}
	drop(s.registry, s.registry.pods, "p")
	if r := asked(t, s, shimapi.MethodShutdown, `{}`); r.Error != nil {
		t.Errorf("shutdown without pods: %v", r.Error)
	}
	if !isClosed(s.left) {
		t.Error("a shim without pods stays")
	}
	if err := s.Leave(); asWireError(err).Kind != shimapi.KindNotRunning {
		t.Errorf("second leave: %v, want %s", err, shimapi.KindNotRunning)
	}
	if err := claim(s.registry, s.registry.pods, "q", &pod{}); asWireError(err).Kind != shimapi.KindNotRunning {
		t.Errorf("claim of a leaving shim: %v, want %s", err, shimapi.KindNotRunning)
	}
}
