package shims

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

func withStdin(once bool) func(*shimapi.CreateRequest, *specs.Spec) {
	return func(r *shimapi.CreateRequest, _ *specs.Spec) { r.Stdin, r.StdinOnce = true, once }
}

func terminal(r *shimapi.CreateRequest, s *specs.Spec) { r.Stdin, s.Process.Terminal = true, true }

// client is an attached client's ends.
type client struct {
	in  *os.File
	out *lockedBuffer
	end chan struct{} // closed when the output ended
	*AttachSession
}

func (n *shimNode) attachTo(r *shimapi.CreateRequest) *client {
	n.t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		n.t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		n.t.Fatal(err)
	}
	session, err := n.shim.Attach(n.ctx, &shimapi.AttachRequest{ID: r.ID, Stdin: true, Stdout: true, Stderr: true}, []*os.File{inR, outW, outW})
	if err != nil {
		n.t.Fatal(err)
	}
	_, _ = inR.Close(), outW.Close()
	c := &client{in: inW, out: &lockedBuffer{}, end: make(chan struct{}), AttachSession: session}
	go func() {
		defer close(c.end)
		_, _ = io.Copy(c.out, outR)
		_ = outR.Close()
	}()
	n.t.Cleanup(func() {
		c.Close()
		_ = c.in.Close()
		<-c.end
	})
	return c
}

func TestAttach(t *testing.T) {
	n := newShimNode(t)
	r := n.run(n.pod(), "while read line; do echo got $line; echo err $line >&2; done; echo end of input", withStdin(false))
	a, b := n.attachTo(r), n.attachTo(r)
	if _, err := a.in.WriteString("one\n"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client{a, b} {
		eventually(t, "the line is seen", func() bool {
			return strings.Contains(c.out.String(), "got one\n") && strings.Contains(c.out.String(), "err one\n")
		})
	}
	a.Close()
	_ = a.in.Close()
	if _, err := b.in.WriteString("two\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second line is seen", func() bool { return strings.Contains(b.out.String(), "got two\n") })
	if strings.Contains(a.out.String(), "two") {
		t.Error("a client that left still gets output")
	}
	if err := n.shim.CloseStdin(n.ctx, r.ID); err != nil {
		t.Fatal(err)
	}
	if err := b.Wait(n.ctx); err != nil {
		t.Error(err)
	}
	<-b.end
	if !strings.HasSuffix(b.out.String(), "end of input\n") {
		t.Errorf("output %q", b.out)
	}
	n.exit(r)
	if out := n.output(r); !strings.Contains(out, "got one\n") || !strings.Contains(out, "end of input\n") {
		t.Errorf("log %q", out)
	}
	if _, err := n.shim.Attach(n.ctx, &shimapi.AttachRequest{ID: r.ID}, nil); kindOfError(err) != shimapi.KindNotRunning {
		t.Errorf("attach after the end: %v", err)
	}
}

func TestStdinOnce(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	for name, end := range map[string]func(*client){
		"end of input": func(c *client) { _ = c.in.Close() },
		"hang-up":      func(c *client) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := n.run(pod, "cat; echo ended", withStdin(true))
			c := n.attachTo(r)
			if _, err := c.in.WriteString("data\n"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "echo", func() bool { return strings.Contains(c.out.String(), "data") })
			end(c)
			n.exit(r)
			if out := n.output(r); out != "data\nended\n" {
				t.Errorf("log %q", out)
			}
		})
	}
}

func TestContainerTerminal(t *testing.T) {
	n := newShimNode(t)
	r := n.run(n.pod(), "read a; stty size; echo got $a; exit 4", terminal)
	c := n.attachTo(r)
	if err := n.shim.Resize(n.ctx, &shimapi.ResizeRequest{ID: r.ID, Width: 90, Height: 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.in.WriteString("x\n"); err != nil {
		t.Fatal(err)
	}
	if rec := n.exit(r); rec.ExitCode != 4 {
		t.Errorf("record %+v", rec)
	}
	if out := n.output(r); !strings.Contains(out, "20 90") || !strings.Contains(out, "got x") {
		t.Errorf("log %q", out)
	}
	if err := c.Wait(n.ctx); err != nil {
		t.Error(err)
	}
}

// TestSlowClient attaches one that reads nothing: the log gets everything, and
// the container goes on when the client is cut off.
func TestSlowClient(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	// The container waits for the client to be cut off; or it ends before.
	for _, lines := range []int{40000, 20000} {
		t.Run(fmt.Sprint(lines), func(t *testing.T) { n.slowClient(t, pod, lines) })
	}
}

func (n *shimNode) slowClient(t *testing.T, pod string, lines int) {
	r := n.run(pod, fmt.Sprintf("read go; seq 1 %d; echo done", lines), withStdin(false))
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	session, err := n.shim.Attach(n.ctx, &shimapi.AttachRequest{ID: r.ID, Stdin: true, Stdout: true}, []*os.File{inR, outW})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	defer func() { _, _, _, _ = inR.Close(), inW.Close(), outR.Close(), outW.Close() }()
	if _, err := inW.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n.exit(r)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the container took %v", took)
	}
	if out := n.output(r); !strings.HasSuffix(out, fmt.Sprintf("\n%d\ndone\n", lines)) || strings.Count(out, "\n") != lines+1 {
		t.Errorf("log of %d bytes ends %q", len(out), out[len(out)-20:])
	}
}

func TestLogRotation(t *testing.T) {
	n := newShimNode(t)
	r := n.run(n.pod(), "i=0; while [ $i -lt 60 ]; do seq $((i*2000)) $((i*2000+1999)); i=$((i+1)); done")
	var files []string
	for i := range 20 {
		old := filepath.Join(filepath.Dir(r.LogPath), "0.log."+string(rune('a'+i)))
		if err := os.Rename(r.LogPath, old); err != nil {
			t.Fatal(err)
		}
		files = append(files, old)
		if err := n.shim.Reopen(n.ctx, r.ID); err != nil {
			if kindOfError(err) != shimapi.KindNotRunning {
				t.Error(err)
			}
			break
		}
	}
	n.exit(r)
	if onDisk(r.LogPath) {
		files = append(files, r.LogPath)
	}
	lines := strings.Split(strings.TrimSuffix(readLog(t, files...), "\n"), "\n")
	if len(lines) != 120000 || lines[0] != "0" || lines[119999] != "119999" {
		t.Errorf("%d lines in %d files, first %q, last %q", len(lines), len(files), lines[0], lines[len(lines)-1])
	}
}

// TestHugeLog writes 64 MiB in lines of 100 kB and looks at the shim's memory.
func TestHugeLog(t *testing.T) {
	n := newShimNode(t)
	r := n.run(n.pod(), "i=0; while [ $i -lt 671 ]; do head -c 99999 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; printf tail")
	var peak int
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.exit(r)
	}()
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-time.After(20 * time.Millisecond):
			peak = max(peak, n.shimPSS())
		}
	}
	out := n.output(r)
	want := strings.Repeat(strings.Repeat("x", 99999)+"\n", 671) + "tail"
	if out != want {
		t.Errorf("log of %d bytes, want %d", len(out), len(want))
	}
	t.Logf("shim's PSS at most %d KiB", peak)
	if peak > 24<<10 {
		t.Errorf("shim took %d KiB", peak)
	}
}

func (n *shimNode) shimPSS() int { return pss(n.shim.PID()) }
