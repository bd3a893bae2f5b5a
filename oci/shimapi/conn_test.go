package shimapi

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// served answers one request of a shim's socket with these responses.
func served(t *testing.T, responses ...any) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), SocketName)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		var r Request
		if _, err := ReadFrame(conn, &r); err != nil {
			return
		}
		for _, response := range responses {
			_ = WriteFrame(conn, response)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-ended })
	return socket
}

func TestConn(t *testing.T) {
	body, _ := json.Marshal(ExecStarted{PID: 7})
	c := Dial(t.Context(), served(t, Response{Body: body}, Response{Error: &Error{Kind: KindNotFound}}, Response{Body: body}))
	defer c.Close()
	c.WriteRequest(MethodExec, IDRequest{ID: "c"})
	var started ExecStarted
	if _, err := c.ReadResponse(&started); err != nil || started.PID != 7 {
		t.Errorf("first response %+v, %v, want PID 7", started, err)
	}
	var refusal *Error
	if _, err := c.ReadResponse(nil); !errors.As(err, &refusal) || c.Err() != nil {
		t.Errorf("second response %v, kept %v, want a refusal that is not kept", err, c.Err())
	}
	if _, err := c.ReadResponse(new(int)); err == nil || c.Err() == nil {
		t.Error("a body of another type was decoded")
	}
}

// TestConnKeepsItsFirstError: the caller looks at the error once, when it reads.
func TestConnKeepsItsFirstError(t *testing.T) {
	failed := errors.New("failed before")
	for name, c := range map[string]struct {
		conn *Conn
		want error
	}{
		"no socket": {Dial(t.Context(), filepath.Join(t.TempDir(), "none")), fs.ErrNotExist},
		"failed":    {Failed(failed), failed},
		"files":     {Dial(t.Context(), served(t)), ErrFrame},
	} {
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		files := []*os.File{null, null, null, null, null}
		c.conn.WriteRequest(MethodExec, struct{}{}, files...)
		c.conn.WriteRequest(MethodExec, make(chan int)) // can't be encoded; the first error stays
		if _, err := c.conn.ReadResponse(nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		c.conn.Interrupt()
		c.conn.Close()
		c.conn.Close()
		_ = null.Close()
	}
}

// TestConnInterrupt: a read that waits for the shim ends.
func TestConnInterrupt(t *testing.T) {
	socket := filepath.Join(t.TempDir(), SocketName)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket}) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := Dial(t.Context(), socket)
	defer c.Close()
	c.WriteRequest(MethodHello, struct{}{})
	ended := make(chan error, 1)
	go func() {
		_, err := c.ReadResponse(nil)
		ended <- err
	}()
	c.Interrupt()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %v, want the deadline", err)
	}
}
