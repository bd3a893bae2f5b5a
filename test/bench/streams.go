package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// outputs is how often a container's output is timed, for each runtime.
	outputs = 3
	// forwardedPort is where the container of the streams serves its output.
	forwardedPort = "5000"
	// endLine is the last line of a container's log.
	endLine = "the end"
	// lineSize is that of a line that a container writes, leastPrefix of what is before it in a log.
	lineSize    = 128
	leastPrefix = int64(len("2006-01-02T15:04:05Z stdout F "))
	// look is the time between two looks at a log, whose end nothing announces.
	look = 5 * time.Millisecond
)

// printing is a shell's command that writes as many MiB of lines of 128 bytes, in pieces of
// 64 KiB, of which makeLines has made the first MiB.
func printing(mib int) string {
	return fmt.Sprintf("i=0; while [ $i -lt %d ]; do busybox dd if=/tmp/lines bs=64k 2>/dev/null; i=$((i+1)); done", mib)
}

// makeLines is a shell's command that makes a file of 1 MiB.
var makeLines = "busybox yes " + strings.Repeat("x", lineSize-1) + " | busybox head -c 1048576 > /tmp/lines"

// shell is the configuration of a container that runs a script. Its CPU share is that of what it
// is measured with.
func (b *bench) shell(script string) *runtimeapi.ContainerConfig {
	config := containerConfig(b.busybox)
	config.Command = []string{"/bin/sh", "-c", script}
	config.Linux.Resources.CpuShares = 1024
	return config
}

// measureLogs times a container that writes to its log, from its start until the log has all,
// in turns.
func (b *bench) measureLogs(ctx context.Context) error {
	return b.turns(ctx, outputs, func(r *runtimeUnderTest) error {
		p, _, err := r.created(ctx, b.shell(makeLines+"; "+printing(b.opts.output)+"; echo "+endLine))
		if err != nil {
			return err
		}
		before, begin := accounted(b.cgroup), time.Now()
		if err := r.cri.StartContainer(ctx, p.container); err != nil {
			return err
		}
		size, err := awaitEnd(ctx, p.log())
		if err != nil {
			return err
		}
		spent := time.Since(begin)
		if least := int64(b.opts.output) << 20 / lineSize * (lineSize + leastPrefix); size < least {
			return fmt.Errorf("a log of %d bytes has not all lines, which have %d", size, least)
		}
		b.report.time("logs", r.name, spent)
		b.cpu("logs.cpu", r, before)
		_, err = r.down(ctx, p)
		return err
	})
}

// cpu reports what the run has used since before, where that is counted.
func (b *bench) cpu(name string, r *runtimeUnderTest, before time.Duration) {
	if spent := accounted(b.cgroup) - before; spent > 0 {
		b.report.time(name, r.name, spent)
	}
}

// awaitEnd waits for the last line of a log and gives the log's size.
func awaitEnd(ctx context.Context, path string) (size int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		tail, size, err := tailOf(path)
		if err == nil && bytes.HasSuffix(tail, []byte(" F "+endLine+"\n")) {
			return size, nil
		}
		select {
		case <-ctx.Done():
			return size, errors.Join(fmt.Errorf("%s does not come to its end: %w; it ends with %q", path, ctx.Err(), tail), err)
		case <-tick.C:
		}
	}
}

// tailOf gives the last bytes of a file, and its size.
func tailOf(path string) (tail []byte, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	tail = make([]byte, min(info.Size(), 64))
	_, err = f.ReadAt(tail, info.Size()-int64(len(tail)))
	return tail, info.Size(), err
}

// measureStreams times the output of an exec and what comes through a forwarded port, in turns.
// The client is client-go's (test/streams/client), with SPDY as the kubelet has it.
func (b *bench) measureStreams(ctx context.Context) error {
	serve := makeLines + "; echo " + endLine + "; while :; do (" + printing(b.opts.output) + ") | busybox nc -l -p " + forwardedPort + "; done"
	return b.inPods(ctx, b.shell(serve), outputs, func(r *runtimeUnderTest, p *pod) error {
		if _, err := awaitEnd(ctx, p.log()); err != nil { // the lines are made
			return err
		}
		if err := b.timeOutput(ctx, r, "streams.exec", func(ctx context.Context) (int64, error) { return b.execOutput(ctx, r, p) }); err != nil {
			return err
		}
		return b.timeOutput(ctx, r, "streams.forward", func(ctx context.Context) (int64, error) { return b.forwardOutput(ctx, r, p) })
	})
}

// timeOutput reports how long it takes until all of the output is read, and the CPU time of all
// that take part, the client as well.
func (b *bench) timeOutput(ctx context.Context, r *runtimeUnderTest, name string, read func(context.Context) (int64, error)) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	before, begin := accounted(b.cgroup), time.Now()
	n, err := read(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	spent := time.Since(begin)
	if want := int64(b.opts.output) << 20; n != want {
		return errors.Join(fmt.Errorf("%s: %d bytes came of %d", name, n, want), context.Cause(ctx))
	}
	b.report.time(name, r.name, spent)
	b.cpu(name+".cpu", r, before)
	return nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(data []byte) (int, error) {
	*c += counter(len(data))
	return len(data), nil
}

func (b *bench) execOutput(ctx context.Context, r *runtimeUnderTest, p *pod) (int64, error) {
	var got counter
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, b.opts.streams, "-endpoint", "unix://"+r.socket, "exec", p.container, "/bin/sh", "-c", printing(b.opts.output))
	cmd.Stdout, cmd.Stderr = &got, &said
	if err := b.children.run(cmd); err != nil {
		return 0, fmt.Errorf("%w: %s", err, said.Bytes())
	}
	return int64(got), nil
}

// forwardOutput connects to the forwarded port and reads what was sent. It does not wait for the
// end of the connection: containerd gives a client a second to close its side first.
func (b *bench) forwardOutput(ctx context.Context, r *runtimeUnderTest, p *pod) (n int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, b.opts.streams, "-endpoint", "unix://"+r.socket, "forward", p.id, forwardedPort)
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = b.children.start(cmd)
	}
	if err != nil {
		cancel()
		return 0, err
	}
	defer func() {
		cancel()
		_ = b.children.wait(cmd) // it was just killed
		if err != nil {
			err = fmt.Errorf("%w: %s", err, said.Bytes())
		}
	}()
	var port string
	if _, err := fmt.Fscan(out, &port); err != nil {
		return 0, fmt.Errorf("no port: %w", err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	n, err = io.CopyN(io.Discard, conn, int64(b.opts.output)<<20)
	if errors.Is(err, io.EOF) {
		return n, nil // the caller tells that some is missing
	}
	return n, err
}
