package operator

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// backend answers what a test gives it.
type backend struct {
	load func(r io.Reader, tell func(string)) ([]string, error)
}

func (b backend) Load(_ context.Context, r io.Reader, tell func(string)) ([]string, error) {
	return b.load(r, tell)
}
func (backend) Export(_ context.Context, refs []string, w io.Writer) error {
	_, err := io.WriteString(w, strings.Join(refs, " "))
	return err
}
func (backend) Pull(context.Context, string, func(string)) (string, error) {
	return "", status.Error(codes.NotFound, "no such image")
}
func (backend) Check(_ context.Context, repair bool) (json.RawMessage, error) {
	return json.Marshal(map[string]bool{"repair": repair})
}
func (backend) Info() Info { return Info{Version: "1", Containers: 3} }

// serve listens on a real socket and gives a client that dialed it.
func serve(t *testing.T, b Backend) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	Register(g, b)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	c, err := Dial("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestCallsOverASocket(t *testing.T) {
	c := serve(t, backend{})
	if info, err := c.Info(t.Context()); err != nil || info.Containers != 3 {
		t.Errorf("info: %+v, %v", info, err)
	}
	if report, err := c.Check(t.Context(), true); err != nil || string(report) != `{"repair":true}` {
		t.Errorf("check: %s, %v", report, err)
	}
	var out strings.Builder
	if err := c.Export(t.Context(), []string{"a", "b"}, &out); err != nil || out.String() != "a b" {
		t.Errorf("export: %q, %v", out.String(), err)
	}
	if _, err := c.Pull(t.Context(), "x", nil); status.Code(err) != codes.NotFound {
		t.Errorf("pull: %v", err)
	}
}

func TestProgressNeverHoldsTheWorkUp(t *testing.T) {
	const many = 100_000
	c := serve(t, backend{load: func(r io.Reader, tell func(string)) ([]string, error) {
		for range many {
			tell("line")
		}
		_, err := io.Copy(io.Discard, r)
		return []string{"img"}, err
	}})
	lines := 0
	images, err := c.Load(t.Context(), strings.NewReader("x"), func(string) { lines++ })
	if err != nil || len(images) != 1 || lines == 0 || lines > many {
		t.Errorf("%v after %d lines, %v", images, lines, err)
	}
}

func TestAServerThatAnswersEarlyEndsTheUpload(t *testing.T) {
	c := serve(t, backend{load: func(io.Reader, func(string)) ([]string, error) {
		return nil, status.Error(codes.ResourceExhausted, "disk full")
	}})
	endless := readerFunc(func(p []byte) (int, error) { return len(p), nil })
	if _, err := c.Load(t.Context(), endless, nil); status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
}

func TestAClientThatGoesEndsTheUpload(t *testing.T) {
	ended := make(chan error, 1)
	c := serve(t, backend{load: func(r io.Reader, tell func(string)) ([]string, error) {
		tell("begun")
		_, err := io.Copy(io.Discard, r)
		ended <- err
		return nil, err
	}})
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	if _, err := c.Load(ctx, r, func(string) { cancel() }); status.Code(err) != codes.Canceled {
		t.Errorf("client: %v", err)
	}
	if err := <-ended; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("half an archive looks whole: %v", err)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestDialOfNothing(t *testing.T) {
	c, err := Dial(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Info(t.Context()); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}
