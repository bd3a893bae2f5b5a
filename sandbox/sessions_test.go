package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"berth/oci/shimapi"
)

// sink is a client's end of an output, which can be read while it is written to.
type sink struct {
	*io.PipeReader
	w *io.PipeWriter
}

func newSink() sink {
	r, w := io.Pipe()
	return sink{r, w}
}

// buffer is a client's end of an output that is looked at when the call has returned.
type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

func TestExecSyncGivesOutputAndCode(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	res, err := n.m.ExecSync(t.Context(), id, []string{"echo", "hello"}, 0)
	if err != nil || string(res.Stdout) != "echo\nhello\n" || string(res.Stderr) != "error output\n" || res.ExitCode != 7 {
		t.Errorf("got %+v, %v", res, err)
	}
	_, err = n.m.ExecSync(t.Context(), id, nil, 0)
	wantError(t, "exec of no command", err, ErrInvalid)
	_, err = n.m.ExecSync(t.Context(), "unknown", []string{"x"}, 0)
	wantError(t, "exec in an unknown container", err, ErrNotFound)
}

// A command that did not end in time is an error, and what it had printed comes along.
func TestExecSyncThatTimesOut(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	res, err := n.m.ExecSync(t.Context(), id, []string{"sleep"}, time.Millisecond)
	wantError(t, "exec", err, ErrTimeout)
	if string(res.Stdout) != "sleep\n" {
		t.Errorf("printed before: %q", res.Stdout)
	}
}

// What the shim refuses gets the error of this package that fits.
func TestExecThatTheShimRefuses(t *testing.T) {
	for kind, want := range map[shimapi.Kind]error{
		shimapi.KindStartFailed: ErrInvalid, shimapi.KindNotRunning: ErrState, shimapi.KindNotFound: ErrNotFound, shimapi.KindInvalid: ErrInvalid,
	} {
		n := newFakeNode(t)
		id := n.run(n.pod("a"), "c")
		n.shim.onCall(func(method, _ string) *shimapi.Error {
			if method == shimapi.MethodExec || method == shimapi.MethodAttach {
				return &shimapi.Error{Kind: kind, Message: "no"}
			}
			return nil
		})
		_, err := n.m.ExecSync(t.Context(), id, []string{"x"}, 0)
		wantError(t, "exec sync, "+string(kind), err, want)
		_, err = n.m.Exec(t.Context(), id, []string{"x"}, Streams{Stdout: &buffer{}})
		wantError(t, "exec, "+string(kind), err, want)
		err = n.m.Attach(t.Context(), id, Streams{Stdout: &buffer{}})
		wantError(t, "attach, "+string(kind), err, want)
	}
}

func TestExecJoinsTheClientsStreams(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	var out, errOut buffer
	code, err := n.m.Exec(t.Context(), id, []string{"cat"}, Streams{Stdin: strings.NewReader("from the client\n"), Stdout: &out, Stderr: &errOut})
	if err != nil || code != 7 || out.String() != "from the client\ncat\n" || errOut.String() != "error output\n" {
		t.Errorf("code %d, %v, output %q, error output %q", code, err, out.String(), errOut.String())
	}
}

// The console of an exec with a terminal carries both directions, and its size at the
// start is the client's.
func TestExecWithATerminal(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	resize := make(chan Size, 2)
	resize <- Size{Width: 80, Height: 25}
	resize <- Size{Width: 100, Height: 30}
	var out buffer
	code, err := n.m.Exec(t.Context(), id, []string{"sh"}, Streams{Stdin: strings.NewReader("typed\n"), Stdout: &out, TTY: true, Resize: resize})
	if err != nil || code != 7 || !strings.Contains(out.String(), "on the terminal") {
		t.Errorf("code %d, %v, screen %q", code, err, out.String())
	}
	n.shim.mu.Lock()
	defer n.shim.mu.Unlock()
	p := n.shim.execs[0].Process
	if p.ConsoleSize == nil || p.ConsoleSize.Width != 80 || p.ConsoleSize.Height != 25 {
		t.Errorf("size at the start: %+v", p.ConsoleSize)
	}
	if !strings.Contains(strings.Join(p.Env, " "), "TERM=xterm") {
		t.Errorf("environment %q without TERM", p.Env)
	}
}

func TestFirstSizeIsNotWaitedForLong(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	closed := make(chan Size)
	close(closed)
	for name, sizes := range map[string]chan Size{"no channel": nil, "a closed channel": closed, "a client that gave up": make(chan Size)} {
		if got := firstSize(ctx, sizes); got != nil {
			t.Errorf("%s: size %+v", name, got)
		}
	}
}

func TestAttachUntilTheContainerEnds(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	out := newSink()
	done := make(chan error, 1)
	go func() {
		done <- n.m.Attach(t.Context(), id, Streams{Stdin: strings.NewReader("ignored"), Stdout: out.w})
	}()
	line := make([]byte, len("attached\n"))
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "attached\n" {
		t.Errorf("read %q, %v", line, err)
	}
	n.shim.exit(id, 0)
	if err := <-done; err != nil {
		t.Errorf("attach: %v", err)
	}
}

func TestAttachEndsWithItsClient(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.m.Attach(ctx, id, Streams{Stdout: &buffer{}}) }()
	await(t, "the attach", func() bool { return count(n.shim.called(), shimapi.MethodAttach) > 0 })
	cancel()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("attach: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("attach goes on without its client")
	}
}

func TestReopenLog(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	if err := n.m.ReopenLog(t.Context(), id); err != nil {
		t.Error(err)
	}
	n.shim.forget(id)
	wantError(t, "reopen of what the shim does not hold", n.m.ReopenLog(t.Context(), id), ErrNotFound)
}

// pipeStream is the client's half of a port-forward.
type pipeStream struct {
	io.Reader
	io.WriteCloser
}

func TestPortForwardCarriesBothDirections(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // the pod's program answers when it has read everything
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "answer to %s", b)
	}()
	n := newFakeNode(t)
	pod := n.pod("a") // on the host's network
	port := int32(listener.Addr().(*net.TCPAddr).Port)
	answer := newSink()
	done := make(chan error, 1)
	go func() {
		done <- n.m.PortForward(t.Context(), pod, port, pipeStream{strings.NewReader("question"), answer.w})
	}()
	if b, err := io.ReadAll(answer); err != nil || string(b) != "answer to question" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, bad := range []int32{0, -1, 65536} {
		wantError(t, fmt.Sprint("port ", bad), n.m.PortForward(t.Context(), pod, bad, nil), ErrInvalid)
	}
	listener.Close()
	if err := n.m.PortForward(t.Context(), pod, port, nil); err == nil {
		t.Error("a port where nobody listens")
	}
}

// A client that goes while the pod's program sends nothing ends the forwarding.
func TestPortForwardEndsWithItsClient(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	n := newFakeNode(t)
	pod := n.pod("a")
	ctx, cancel := context.WithCancel(t.Context())
	in, _ := io.Pipe() // the client sends nothing either
	out := newSink()
	done := make(chan error, 1)
	go func() {
		done <- n.m.PortForward(ctx, pod, int32(listener.Addr().(*net.TCPAddr).Port), pipeStream{in, out.w})
	}()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on without its client")
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection to the pod's program is still open")
	}
}

// The shim dies while a command runs: the client is told that it may try again.
func TestExecDuringWhichTheShimDies(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	input, held := io.Pipe() // the command reads it to its end
	defer held.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := n.m.Exec(t.Context(), id, []string{"cat"}, Streams{Stdin: input, Stdout: &buffer{}})
		ended <- err
	}()
	await(t, "the command runs", func() bool {
		n.shim.mu.Lock()
		defer n.shim.mu.Unlock()
		return len(n.shim.execs) == 1
	})
	n.shim.die()
	wantError(t, "exec", <-ended, ErrNotReady)
}
