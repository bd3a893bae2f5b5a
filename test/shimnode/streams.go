package shimnode

import (
	"bytes"
	"io"
	"os"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
	"berth/oci/shims"
)

// Client is an attached client's ends.
type Client struct {
	In    *os.File
	Out   *Buffer
	Ended chan struct{} // closed when the output ended
	*shims.AttachSession
}

// Attach attaches a client to all streams of a container.
func (n *Node) Attach(r *shimapi.CreateRequest) *Client {
	n.T.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		n.T.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		n.T.Fatal(err)
	}
	session, err := n.Shim.Attach(n.Ctx, &shimapi.AttachRequest{ID: r.ID, Stdin: true, Stdout: true, Stderr: true}, []*os.File{inR, outW, outW})
	if err != nil {
		n.T.Fatal(err)
	}
	_, _ = inR.Close(), outW.Close()
	c := &Client{In: inW, Out: &Buffer{}, Ended: make(chan struct{}), AttachSession: session}
	go func() {
		defer close(c.Ended)
		_, _ = io.Copy(c.Out, outR)
		_ = outR.Close()
	}()
	n.T.Cleanup(func() {
		c.Close()
		_ = c.In.Close()
		<-c.Ended
	})
	return c
}

// Buffer collects output while it is read.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// WithStdin is an alteration of a request: a stdin, which ends with the first client if once.
func WithStdin(once bool) func(*shimapi.CreateRequest, *specs.Spec) {
	return func(r *shimapi.CreateRequest, _ *specs.Spec) { r.Stdin, r.StdinOnce = true, once }
}

// Terminal is an alteration of a request: a terminal and a stdin.
func Terminal(r *shimapi.CreateRequest, s *specs.Spec) { r.Stdin, s.Process.Terminal = true, true }
