package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"berth/sandbox"
)

// upgrade opens a SPDY connection to a streaming URL, as the kubelet does.
func upgrade(t *testing.T, address, protocol string) httpstream.Connection {
	t.Helper()
	rt, err := spdy.NewRoundTripper(nil)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	conn, err := rt.NewConnection(resp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func open(t *testing.T, conn httpstream.Connection, headers ...string) httpstream.Stream {
	t.Helper()
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	s, err := conn.CreateStream(h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// inContainer is a server with one running container.
func inContainer(t *testing.T, change func(*runtimeapi.ContainerConfig), exec func(context.Context, string, []string, sandbox.Streams) (int, error)) (*Server, runtimeapi.RuntimeServiceClient) {
	t.Helper()
	f := newFake()
	cfg := containerConfig("c")
	if change != nil {
		change(cfg)
	}
	f.pods = []*sandbox.PodStatus{{ID: "p1", Config: podConfig("p")}}
	f.containers = []*sandbox.ContainerStatus{{ID: "c1", PodID: "p1", Config: cfg, State: runtimeapi.ContainerState_CONTAINER_RUNNING}, {ID: "stopped", PodID: "p1", Config: cfg}}
	f.exec = exec
	s, conn := serve(t, options(f))
	return s, runtimeapi.NewRuntimeServiceClient(conn)
}

func TestExecOverSPDY(t *testing.T) {
	_, client := inContainer(t, nil, func(_ context.Context, id string, cmd []string, s sandbox.Streams) (int, error) {
		in, err := io.ReadAll(s.Stdin)
		if err != nil {
			return 0, err
		}
		fmt.Fprintf(s.Stdout, "%s %v %s", id, cmd, in)
		fmt.Fprint(s.Stderr, "to stderr")
		return 7, nil
	})
	resp, err := client.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"cat", "-"}, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	conn := upgrade(t, resp.GetUrl(), "v4.channel.k8s.io")
	errs := open(t, conn, "streamType", "error")
	stdin, stdout, stderr := open(t, conn, "streamType", "stdin"), open(t, conn, "streamType", "stdout"), open(t, conn, "streamType", "stderr")
	if _, err := io.WriteString(stdin, "hello"); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	var st struct {
		Status  string
		Reason  string
		Details struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal([]byte(readAll(t, errs)), &st); err != nil {
		t.Fatal(err)
	}
	if st.Reason != "NonZeroExitCode" || st.Details.Causes[0].Message != "7" {
		t.Errorf("status: %+v", st)
	}
	if got := readAll(t, stdout); got != "c1 [cat -] hello" {
		t.Errorf("stdout: %q", got)
	}
	if got := readAll(t, stderr); got != "to stderr" {
		t.Errorf("stderr: %q", got)
	}
	again, err := http.Get(resp.GetUrl())
	if err != nil {
		t.Fatal(err)
	}
	again.Body.Close()
	if again.StatusCode != http.StatusNotFound {
		t.Errorf("the URL works twice: %s", again.Status)
	}
}

func TestExecWithATerminalIsResized(t *testing.T) {
	_, client := inContainer(t, nil, func(_ context.Context, _ string, _ []string, s sandbox.Streams) (int, error) {
		size := <-s.Resize
		fmt.Fprintf(s.Stdout, "tty %v %dx%d %v", s.TTY, size.Width, size.Height, s.Stderr == nil)
		return 0, nil
	})
	resp, err := client.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"sh"}, Tty: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	conn := upgrade(t, resp.GetUrl(), "v4.channel.k8s.io")
	errs, stdout, resize := open(t, conn, "streamType", "error"), open(t, conn, "streamType", "stdout"), open(t, conn, "streamType", "resize")
	if err := json.NewEncoder(resize).Encode(map[string]int{"Width": 80, "Height": 25}); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, errs); !strings.Contains(got, "Success") {
		t.Errorf("status: %s", got)
	}
	if got := readAll(t, stdout); got != "tty true 80x25 true" {
		t.Errorf("stdout: %q", got)
	}
}

func TestExecThatFailsOrPanicsIsAnInternalError(t *testing.T) {
	for name, exec := range map[string]func(context.Context, string, []string, sandbox.Streams) (int, error){
		"no such file": func(context.Context, string, []string, sandbox.Streams) (int, error) {
			return 0, errors.New("no such file")
		},
		"berth has a bug": func(context.Context, string, []string, sandbox.Streams) (int, error) { panic("boom") },
	} {
		_, client := inContainer(t, nil, exec)
		resp, err := client.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"x"}, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		conn := upgrade(t, resp.GetUrl(), "v4.channel.k8s.io")
		errs := open(t, conn, "streamType", "error")
		open(t, conn, "streamType", "stdout")
		if got := readAll(t, errs); !strings.Contains(got, "InternalError") || !strings.Contains(got, name) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// Over WebSocket each message begins with the number of its channel.
func TestAttachOverWebSocketFollowsTheContainer(t *testing.T) {
	_, client := inContainer(t, func(c *runtimeapi.ContainerConfig) { c.Tty = true }, func(_ context.Context, _ string, _ []string, s sandbox.Streams) (int, error) {
		fmt.Fprintf(s.Stdout, "tty %v stdin %v stderr %v", s.TTY, s.Stdin != nil, s.Stderr != nil)
		return 0, nil
	})
	// The container has a terminal and no input, whatever the client thinks.
	resp, err := client.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: "c1", Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(resp.GetUrl())
	if err != nil {
		t.Fatal(err)
	}
	u.Scheme = "ws"
	ws, err := websocket.Dial(u.String(), "v4.channel.k8s.io", "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	var stdout, end string
	for end == "" {
		var m []byte
		if err := websocket.Message.Receive(ws, &m); err != nil {
			t.Fatal(err)
		}
		switch m[0] {
		case 1:
			stdout += string(m[1:])
		case 3:
			end = string(m[1:])
		}
	}
	if stdout != "tty true stdin false stderr false" || !strings.Contains(end, "Success") {
		t.Errorf("stdout %q, end %q", stdout, end)
	}
}

func TestPortForward(t *testing.T) {
	_, client := inContainer(t, nil, nil)
	resp, err := client.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: "p1", Port: []int32{80}})
	if err != nil {
		t.Fatal(err)
	}
	conn := upgrade(t, resp.GetUrl(), "portforward.k8s.io")
	errs := open(t, conn, "streamType", "error", "port", "80", "requestID", "1")
	errs.Close()
	data := open(t, conn, "streamType", "data", "port", "80", "requestID", "1")
	if _, err := io.WriteString(data, "ping"); err != nil {
		t.Fatal(err)
	}
	data.Close()
	if got := readAll(t, data); got != "80:ping" {
		t.Errorf("answer: %q", got)
	}
	if got := readAll(t, errs); got != "" {
		t.Errorf("error stream: %q", got)
	}
}

func TestCloseEndsOpenStreams(t *testing.T) {
	began := make(chan struct{})
	s, client := inContainer(t, nil, func(ctx context.Context, _ string, _ []string, _ sandbox.Streams) (int, error) {
		close(began)
		<-ctx.Done()
		return 0, ctx.Err()
	})
	resp, err := client.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"sleep"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	conn := upgrade(t, resp.GetUrl(), "v4.channel.k8s.io")
	errs := open(t, conn, "streamType", "error")
	open(t, conn, "streamType", "stdout")
	<-began
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got := readAll(t, errs); !strings.Contains(got, "context canceled") {
		t.Errorf("end of the stream: %q", got)
	}
}

func TestStreamsThatAreRefused(t *testing.T) {
	_, client := inContainer(t, nil, nil)
	ctx, cmd := t.Context(), []string{"x"}
	exec := func(r *runtimeapi.ExecRequest) error { _, err := client.Exec(ctx, r); return err }
	attach := func(r *runtimeapi.AttachRequest) error { _, err := client.Attach(ctx, r); return err }
	for name, c := range map[string]struct {
		err  error
		want codes.Code
	}{
		"no command":        {exec(&runtimeapi.ExecRequest{ContainerId: "c1", Stdout: true}), codes.InvalidArgument},
		"no stream":         {exec(&runtimeapi.ExecRequest{ContainerId: "c1", Cmd: cmd}), codes.InvalidArgument},
		"tty and stderr":    {exec(&runtimeapi.ExecRequest{ContainerId: "c1", Cmd: cmd, Tty: true, Stderr: true}), codes.InvalidArgument},
		"exec in stopped":   {exec(&runtimeapi.ExecRequest{ContainerId: "stopped", Cmd: cmd, Stdout: true}), codes.FailedPrecondition},
		"exec in unknown":   {exec(&runtimeapi.ExecRequest{ContainerId: "z", Cmd: cmd, Stdout: true}), codes.NotFound},
		"attach for a tty":  {attach(&runtimeapi.AttachRequest{ContainerId: "c1", Tty: true, Stdout: true}), codes.FailedPrecondition},
		"attach to stopped": {attach(&runtimeapi.AttachRequest{ContainerId: "stopped", Stdout: true}), codes.FailedPrecondition},
	} {
		if status.Code(c.err) != c.want {
			t.Errorf("%s: %v", name, c.err)
		}
	}
}

func TestAnAddressThatIsTakenIsAnError(t *testing.T) {
	s, _ := serve(t, options(newFake()))
	opt := options(newFake())
	opt.StreamAddress = s.StreamAddress()
	if _, err := NewServer(opt); err == nil || !strings.Contains(err.Error(), opt.StreamAddress) {
		t.Error(err)
	}
}
