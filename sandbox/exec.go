package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/oci/shims"
)

const (
	// execOutputLimit is how many bytes of each stream an ExecSync keeps; the
	// rest is read and dropped, as CRI clients expect.
	execOutputLimit = 16 << 20
	// execDrain is how long output is still read after the command ended, for
	// when a child of it keeps the pipe open.
	execDrain = 500 * time.Millisecond
	// firstSizePatience is how long an exec with a terminal waits for the size of its
	// client's window, which a program may ask for as soon as it runs. Clients send it
	// at once, if ever.
	firstSizePatience = time.Second
)

// sessions connect clients to processes and ports in pods. They change no record and
// hold no slot: each lasts as long as its client likes.
type sessions struct {
	index    *index
	teardown *teardown
	shims    *shims.Set
}

// running finds a container that a verb needs to be running, and its shim.
func running(ix *index, all *shims.Set, v verb, id string) (*Container, *shims.Shim, error) {
	c, err := ix.container(id)
	if err != nil {
		return nil, nil, err
	}
	if _, err := c.guard(v); err != nil {
		return nil, nil, err
	}
	shim, err := c.pod.shimIn(all)
	return c, shim, err
}

// ExecSync runs a command in a running container and returns what it printed.
// A timeout of 0 means none; when it passes, every process the command started
// is killed and the error wraps [ErrTimeout].
func (x *sessions) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (ExecResult, error) {
	c, shim, err := running(x.index, x.shims, verbExec, id)
	if err != nil {
		return ExecResult{}, err
	}
	req, err := c.execRequest(cmd, false)
	if err != nil {
		return ExecResult{}, err
	}
	req.Timeout = timeout
	stdout, err := newCapture()
	if err != nil {
		return ExecResult{}, err
	}
	defer stdout.close()
	stderr, err := newCapture()
	if err != nil {
		return ExecResult{}, err
	}
	defer stderr.close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return ExecResult{}, err
	}
	session, err := shim.Exec(ctx, req, []*os.File{null, stdout.w, stderr.w})
	_ = null.Close()
	if err != nil {
		return ExecResult{}, fmt.Errorf("exec in container %s: %w", c.id, x.teardown.refusal(c, err))
	}
	defer session.Close()
	stdout.start()
	stderr.start()
	status, err := session.Wait(ctx)
	if err != nil {
		return ExecResult{}, fmt.Errorf("exec in container %s: %w", c.id, x.teardown.refusal(c, err))
	}
	deadline := time.Now().Add(execDrain)
	res := ExecResult{Stdout: stdout.finish(deadline), Stderr: stderr.finish(deadline), ExitCode: int32(status.Code)}
	if status.TimedOut {
		return res, failed(ErrTimeout, "command %q in container %s did not end within %s", cmd, c.id, timeout)
	}
	return res, nil
}

// execRequest describes a process that runs as the container's own does.
func (c *Container) execRequest(cmd []string, tty bool) (*shimapi.ExecRequest, error) {
	if err := CheckCommand(cmd); err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(c.rec.get().Spec, &spec); err != nil || spec.Process == nil {
		return nil, fmt.Errorf("read the container's spec: %w", err)
	}
	p := spec.Process
	p.Args, p.Terminal, p.ConsoleSize = oci.ExecArgs(&spec, cmd), tty, nil
	if tty && !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	return &shimapi.ExecRequest{ID: c.id, ExecID: newID()[:16], Process: p, Terminal: tty}, nil
}

// capture reads a pipe up to a limit and drops what is over it.
type capture struct {
	r, w *os.File
	data []byte
	done chan struct{}
}

func newCapture() (*capture, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	return &capture{r: r, w: w}, nil
}

// start drops our write end, so that the pipe ends with its last writer.
func (c *capture) start() {
	_ = c.w.Close()
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		c.data, _ = io.ReadAll(io.LimitReader(c.r, execOutputLimit))
		_, _ = io.Copy(io.Discard, c.r)
	}()
}

// finish waits for the end of the pipe, at most until the deadline.
func (c *capture) finish(deadline time.Time) []byte {
	_ = c.r.SetReadDeadline(deadline)
	<-c.done
	return c.data
}

func (c *capture) close() {
	_ = c.w.Close()
	_ = c.r.Close()
	if c.done != nil {
		<-c.done
	}
}

// Exec runs a command in a running container with a client's streams and
// returns its exit code. When ctx ends every process it started is killed.
func (x *sessions) Exec(ctx context.Context, id string, cmd []string, s Streams) (int, error) {
	c, shim, err := running(x.index, x.shims, verbExec, id)
	if err != nil {
		return 0, err
	}
	req, err := c.execRequest(cmd, s.TTY)
	if err != nil {
		return 0, err
	}
	if s.TTY {
		return x.execTTY(ctx, c, shim, req, s)
	}
	pipes, err := newStreamPipes(s)
	if err != nil {
		return 0, err
	}
	defer pipes.close()
	session, err := shim.Exec(ctx, req, pipes.remote[:])
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", c.id, x.teardown.refusal(c, err))
	}
	defer session.Close()
	pipes.start(s)
	status, err := session.Wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", c.id, x.teardown.refusal(c, err))
	}
	pipes.drain()
	return status.Code, nil
}

func (x *sessions) execTTY(ctx context.Context, c *Container, shim *shims.Shim, req *shimapi.ExecRequest, s Streams) (int, error) {
	req.Process.ConsoleSize = firstSize(ctx, s.Resize)
	session, err := shim.Exec(ctx, req, nil)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", c.id, x.teardown.refusal(c, err))
	}
	defer session.Close()
	done := make(chan struct{})
	defer close(done)
	go forwardSizes(s.Resize, done, session.Resize)
	console := session.Console
	screen := &output{f: console}
	var out sync.WaitGroup
	if s.Stdout != nil {
		out.Go(func() { screen.copyTo(s.Stdout) })
	}
	if s.Stdin != nil {
		go func() { _, _ = io.Copy(console, s.Stdin) }()
	}
	status, err := session.Wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", c.id, x.teardown.refusal(c, err))
	}
	screen.end()
	out.Wait()
	return status.Code, nil
}

// firstSize is the size that the client's window has at first; nil when the client
// does not tell in time.
func firstSize(ctx context.Context, sizes <-chan Size) *specs.Box {
	if sizes == nil {
		return nil
	}
	patience := time.NewTimer(firstSizePatience)
	defer patience.Stop()
	select {
	case s, ok := <-sizes:
		if ok {
			return &specs.Box{Width: uint(s.Width), Height: uint(s.Height)}
		}
	case <-patience.C:
	case <-ctx.Done():
	}
	return nil
}

// forwardSizes passes a client's window sizes on until either side is done.
func forwardSizes(sizes <-chan Size, done <-chan struct{}, resize func(w, h uint16) error) {
	for {
		select {
		case sz, ok := <-sizes:
			if !ok {
				return
			}
			_ = resize(sz.Width, sz.Height)
		case <-done:
			return
		}
	}
}

// streamPipes join a client's streams, which are not files, with a process's.
type streamPipes struct {
	remote  [3]*os.File // what the process gets
	local   [3]*os.File // our ends, nil where the process got /dev/null
	outputs []*output
	copies  sync.WaitGroup
}

func newStreamPipes(s Streams) (*streamPipes, error) {
	p := &streamPipes{}
	wanted := [3]bool{s.Stdin != nil, s.Stdout != nil, s.Stderr != nil}
	for i, want := range wanted {
		if err := p.open(i, want); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

func (p *streamPipes) open(i int, want bool) (err error) {
	switch {
	case !want:
		p.remote[i], err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
	case i == 0:
		p.remote[i], p.local[i], err = os.Pipe()
	default:
		p.local[i], p.remote[i], err = os.Pipe()
	}
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	return nil
}

// start copies in the background; our copies of the process's ends go, so that
// the pipes end with the process.
func (p *streamPipes) start(s Streams) {
	for _, f := range p.remote {
		_ = f.Close()
	}
	if p.local[0] != nil {
		go func() {
			_, _ = io.Copy(p.local[0], s.Stdin)
			_ = p.local[0].Close()
		}()
	}
	for i, w := range map[int]io.Writer{1: s.Stdout, 2: s.Stderr} {
		if p.local[i] != nil {
			o := &output{f: p.local[i]}
			p.outputs = append(p.outputs, o)
			p.copies.Go(func() { o.copyTo(w) })
		}
	}
}

// drain waits for the output's end, bounded in case a child keeps the pipe.
func (p *streamPipes) drain() {
	for _, o := range p.outputs {
		o.end()
	}
	p.copies.Wait()
}

func (p *streamPipes) close() {
	for _, f := range append(p.remote[:], p.local[:]...) {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Attach joins the streams of a running container until it ends or ctx does.
func (x *sessions) Attach(ctx context.Context, id string, s Streams) error {
	c, shim, err := running(x.index, x.shims, verbExec, id)
	if err != nil {
		return err
	}
	if s.Stdin != nil && !c.status.Load().Config.GetStdin() {
		s.Stdin = nil // the container has no stdin to write to
	}
	pipes, err := newStreamPipes(s)
	if err != nil {
		return err
	}
	defer pipes.close()
	req := shimapi.AttachRequest{ID: c.id, Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil}
	var files []*os.File
	for i, want := range []bool{req.Stdin, req.Stdout, req.Stderr} {
		if want {
			files = append(files, pipes.remote[i])
		}
	}
	done := make(chan struct{})
	defer close(done)
	go forwardSizes(s.Resize, done, func(w, h uint16) error {
		return shim.Resize(ctx, &shimapi.ResizeRequest{ID: c.id, Width: w, Height: h})
	})
	session, err := shim.Attach(ctx, &req, files)
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", c.id, x.teardown.refusal(c, err))
	}
	defer session.Close()
	pipes.start(s)
	if err := session.Wait(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("attach to container %s: %w", c.id, x.teardown.refusal(c, err))
	}
	pipes.drain()
	return nil
}
