package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStreamProtocols has exec and attach on every path do what each can do: both
// outputs, the code, the end of the input, a terminal.
func TestStreamProtocols(t *testing.T) {
	c := shared.pod(t).idle("c")
	s := newStreams(t, shared)
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) {
			x := s.start(p, "exec", c.ID, "sh", "-c", "echo out; echo err >&2; exit 7")
			x.says("out")
			if code := x.wait(); code != 7 || x.stderr.String() != "err\n" {
				t.Errorf("it ended with %d, %q", code, x.stderr.String())
			}
			x = s.start(p, "-tty", "-size", "80x24", "-stdin", "exec", c.ID, "sh", "-c", "read -r line; echo got $line; exit 9")
			fmt.Fprintln(x.stdin, "text")
			x.says("text") // the terminal's echo
			x.says("got text")
			if code := x.wait(); code != 9 {
				t.Errorf("with a terminal it ended with %d: %s", code, x.stderr.String())
			}
			if p.transport == "v4" {
				return // has no end of the input
			}
			x = s.start(p, "-stdin", "exec", c.ID, "sh", "-c", "wc -c; exit 3")
			if _, err := x.stdin.Write(make([]byte, 3<<20)); err != nil {
				t.Error(err)
			}
			x.stdin.Close()
			x.says(fmt.Sprint(3 << 20))
			if code := x.wait(); code != 3 {
				t.Errorf("with input it ended with %d: %s", code, x.stderr.String())
			}
			x = s.start(p, "exec", c.ID, "head", "-c", "20000000", "/dev/zero")
			if n, err := io.Copy(io.Discard, x.stdout); n != 20000000 || x.wait() != 0 {
				t.Errorf("%d bytes of output, %v: %s", n, err, x.stderr.String())
			}
		})
	}
}

// TestStreamFirstSize runs a program that asks for the terminal's size at once.
func TestStreamFirstSize(t *testing.T) {
	const times = 60
	c := shared.pod(t).idle("c")
	s := newStreams(t, shared)
	for _, p := range paths {
		x := s.start(p, "-tty", "-size", "123x45", "-times", fmt.Sprint(times), "exec", c.ID, "stty", "size")
		for range times {
			x.says("45 123")
		}
		if code := x.wait(); code != 0 {
			t.Errorf("%s ended with %d: %s", p.name, code, x.stderr.String())
		}
	}
}

// forward starts a client of port-forward and returns the local addresses.
func (s *streams) forward(p path, pod string, ports ...string) (*streamClient, []string) {
	s.t.Helper()
	x := s.start(p, append([]string{"forward", pod}, ports...)...)
	line, err := x.stdout.ReadString('\n')
	local := strings.Fields(line)
	if err != nil || len(local) != len(ports) {
		x.end(syscall.SIGKILL)
		s.t.Fatalf("%s: %q, %v: %s", x.what, line, err, x.stderr.String())
	}
	for i := range local {
		local[i] = "127.0.0.1:" + local[i]
	}
	return x, local
}

// dialPort connects and waits for the port's greeting.
func dialPort(t *testing.T, address string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(c)
	if line, err := in.ReadString('\n'); line != "welcome\n" {
		t.Fatalf("the port says %q, %v", line, err)
	}
	return c.(*net.TCPConn), in
}

// forwardPaths are those of port-forward, which has no v4.
func forwardPaths() (out []path) {
	for _, p := range paths {
		if p.transport != "v4" {
			out = append(out, p)
		}
	}
	return out
}

// TestStreamForward has living clients of port-forward: data both ways, an answer after
// the end of the request, and a closed port, which is the end of that connection only.
func TestStreamForward(t *testing.T) {
	c := shared.pod(t).start("c", "", runs(t, "ports"))
	c.says("ready")
	s := newStreams(t, shared)
	for _, p := range forwardPaths() {
		t.Run(p.name, func(t *testing.T) {
			x, at := s.forward(p, c.p.ID, "8001", "8002", "8005", "9999")
			defer x.end(syscall.SIGKILL)
			echo, answers := dialPort(t, at[0])
			late, answer := dialPort(t, at[1])
			fmt.Fprint(late, "request")
			late.CloseWrite()
			for range 2 {
				closed, err := net.Dial("tcp", at[3])
				if err != nil {
					t.Fatal(err)
				}
				closed.SetDeadline(time.Now().Add(patience))
				fmt.Fprint(closed, strings.Repeat("request", 10000))
				if n, err := io.Copy(io.Discard, closed); n != 0 || isTimeout(err) {
					t.Errorf("a closed port gives %d bytes, %v", n, err)
				}
				closed.Close()
				short, rest := dialPort(t, at[2])
				fmt.Fprint(short, strings.Repeat("request", 100000)) // nobody reads it
				io.Copy(io.Discard, rest)
				short.Close()
			}
			fmt.Fprintln(echo, "text")
			if line, err := answers.ReadString('\n'); line != "text\n" {
				t.Errorf("the answer is %q, %v", line, err)
			}
			if line, err := answer.ReadString('\n'); line != "7 bytes, <nil>\n" {
				t.Errorf("the late answer is %q, %v", line, err)
			}
			if err := x.cmd.Process.Signal(syscall.Signal(0)); err != nil {
				t.Errorf("the client has ended: %v: %s", err, x.stderr.String())
			}
		})
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
