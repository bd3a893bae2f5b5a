package cri

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// knock opens a raw connection to the streaming port and says text.
func knock(t *testing.T, s *Server, text string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.StreamAddress())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ends waits for the server to close the connection, and gives what it said.
func ends(t *testing.T, conn net.Conn, within time.Duration) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still open after %s", within)
	}
	return string(said)
}

// echo is a container whose exec gives its input back.
func echo(_ context.Context, _ string, _ []string, s sandbox.Streams) (int, error) {
	_, err := io.Copy(s.Stdout, s.Stdin)
	return 0, err
}

// session is an exec of echo that a client has opened.
type session struct {
	stdin  io.WriteCloser
	stdout io.Reader
}

func openSession(t *testing.T, client runtimeapi.RuntimeServiceClient) session {
	t.Helper()
	resp, err := client.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"cat"}, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	conn := upgrade(t, resp.GetUrl(), "v4.channel.k8s.io")
	open(t, conn, "streamType", "error")
	return session{open(t, conn, "streamType", "stdin"), open(t, conn, "streamType", "stdout")}
}

func (s session) check(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(s.stdin, "still here"); err != nil {
		t.Error(err)
	}
	s.stdin.Close()
	if got := readAll(t, s.stdout); got != "still here" {
		t.Errorf("the exec says %q", got)
	}
}

// Slowloris: connections to the streaming port that say nothing, a part of a head, or
// a head without its body, or that wait for more after an answer, are closed within
// seconds; an exec that was open before goes on, as long as it likes.
func TestAttackSlowloris(t *testing.T) {
	s, client := inContainer(t, nil, echo)
	before := openSession(t, client)
	var wait sync.WaitGroup
	for what, text := range map[string]string{
		"silent":         "",
		"half a line":    "GET /exec/x",
		"half a head":    "GET /exec/x HTTP/1.1\r\nHost: x\r\nX-A: ",
		"no body":        "POST /exec/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
		"endless chunk":  "POST /attach/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nx",
		"kept alive":     "GET /exec/x HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
		"not found":      "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"HTTP/2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"upgrade alone":  "POST /exec/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
	} {
		conn := knock(t, s, text)
		wait.Go(func() {
			if said := ends(t, conn, 2*strangerTimeout); strings.HasPrefix(said, "HTTP/1.1 1") {
				t.Errorf("%s: it was let in: %q", what, said)
			}
		})
	}
	drip := knock(t, s, "GET /exec/x HTTP/1.1\r\n")
	wait.Go(func() {
		for range 4 * int(strangerTimeout/time.Second) { // a byte each quarter of a second
			if _, err := drip.Write([]byte("x")); err != nil {
				return
			}
			if err := drip.SetReadDeadline(time.Now().Add(time.Second / 4)); err != nil {
				t.Error(err)
			}
			if _, err := drip.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
		}
		ends(t, drip, strangerTimeout)
	})
	wait.Wait()
	before.check(t)
	after := openSession(t, client)
	after.check(t)
}

// A thousand silent connections to the streaming port take no more descriptors of the
// daemon than its bound, and keep no client with a token out.
func TestAttackStreamPortFlood(t *testing.T) {
	const flood = 1000
	s, client := inContainer(t, nil, echo)
	before := openSession(t, client)
	calm := descriptors(t)
	closed := make(chan struct{}, flood)
	for range flood {
		conn := knock(t, s, "GET /")
		go func() {
			io.Copy(io.Discard, conn)
			closed <- struct{}{}
		}()
	}
	// All but the bound are closed at once, well before their time is over.
	early := time.NewTimer(strangerTimeout * 4 / 5)
	defer early.Stop()
	for n := range flood - maxStrangers {
		select {
		case <-closed:
		case <-early.C:
			t.Fatalf("only %d of %d connections were closed", n, flood)
		}
	}
	if of := descriptors(t) - calm - flood; of > maxStrangers {
		t.Errorf("the flood holds %d descriptors of the daemon", of)
	}
	during := openSession(t, client)
	during.check(t)
	before.check(t)
	for range maxStrangers {
		<-closed
	}
	if of := descriptors(t) - calm - flood; of > 4 { // of the exec beside it
		t.Errorf("%d descriptors are left", of)
	}
}

// descriptors are those of this process, which here is client and daemon in one.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// A head longer than its bound is refused before it is kept.
func TestAttackStreamHeaderFlood(t *testing.T) {
	s, _ := inContainer(t, nil, echo)
	conn := knock(t, s, "GET /exec/x HTTP/1.1\r\nHost: x\r\n")
	line := "X-A: " + strings.Repeat("a", 1000) + "\r\n"
	for sent := 0; sent < 4*strangerHeader; sent += len(line) {
		if _, err := io.WriteString(conn, line); err != nil {
			break // it was closed meanwhile
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("the answer is %s", resp.Status)
		}
	}
}

// Tokens that are never used, however many and with however long commands, take a
// bounded amount of the daemon's memory.
func TestAttackTokensUnused(t *testing.T) {
	_, client := inContainer(t, nil, echo)
	exec := func(cmd ...string) error {
		_, err := client.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: "c1", Cmd: cmd, Stdout: true})
		return err
	}
	const library = 1000 // tokens that the library keeps
	given := 0
	for ; given <= library; given++ {
		if err := exec("true"); err != nil {
			if status.Code(err) != codes.ResourceExhausted {
				t.Error(err)
			}
			break
		}
	}
	if given != library {
		t.Errorf("%d tokens were given", given)
	}
	_, client = inContainer(t, nil, echo)
	long := strings.Repeat("x", 8<<20)
	for n := range tokenBytes / len(long) {
		err := exec("sh", "-c", long)
		if n == tokenBytes/len(long)-1 {
			if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "wait a minute") {
				t.Errorf("after %d bytes: %v", n*len(long), err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := exec("true"); err != nil {
		t.Errorf("a short command after that: %v", err)
	}
}

// A token that is tried twice, after its minute or for another kind of stream opens
// nothing.
func TestAttackTokenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var entered int
		f := newFake()
		f.exec = func(context.Context, string, []string, sandbox.Streams) (int, error) { entered++; return 0, nil }
		server, err := newStreamingServer(Options{Domain: f}, "127.0.0.1:1", newSessions())
		if err != nil {
			t.Fatal(err)
		}
		try := func(path string) int {
			w := httptest.NewRecorder()
			server.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, http.NoBody))
			return w.Code
		}
		token := func() string {
			r, err := server.GetExec(&runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"x"}, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(r.GetUrl())
			if err != nil {
				t.Fatal(err)
			}
			return u.Path
		}
		first := token()
		if code := try(first); code == http.StatusNotFound {
			t.Error("a fresh token is not known")
		}
		if code := try(first); code != http.StatusNotFound {
			t.Errorf("a token works twice: %d", code)
		}
		if code := try(strings.Replace(token(), "exec", "attach", 1)); code != http.StatusNotFound {
			t.Errorf("a token of exec works for attach: %d", code)
		}
		late := token()
		time.Sleep(tokenLife + time.Second) // of the bubble's clock
		if code := try(late); code != http.StatusNotFound {
			t.Errorf("a token works after its life: %d", code)
		}
		var tok tokens
		if _, err := tok.give(tokenBytes, func() (string, error) { return "", nil }); err != nil {
			t.Error(err)
		}
		time.Sleep(tokenLife + time.Second)
		if _, err := tok.give(tokenBytes, func() (string, error) { return "", nil }); err != nil {
			t.Errorf("the memory of dead tokens is not given back: %v", err)
		}
		if entered != 0 {
			t.Error("something was executed")
		}
	})
}
