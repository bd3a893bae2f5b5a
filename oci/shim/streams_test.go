package shim_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

func TestAttach(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "while read line; do echo got $line; echo err $line >&2; done; echo end of input", shimnode.WithStdin(false))
	a, b := n.Attach(r), n.Attach(r)
	if _, err := a.In.WriteString("one\n"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*shimnode.Client{a, b} {
		shimnode.Eventually(t, "the line is seen", func() bool {
			return strings.Contains(c.Out.String(), "got one\n") && strings.Contains(c.Out.String(), "err one\n")
		})
	}
	a.Close()
	_ = a.In.Close()
	<-a.Ended // the shim has noticed
	if _, err := b.In.WriteString("two\n"); err != nil {
		t.Fatal(err)
	}
	shimnode.Eventually(t, "the second line is seen", func() bool { return strings.Contains(b.Out.String(), "got two\n") })
	if strings.Contains(a.Out.String(), "two") {
		t.Error("a client that left still gets output")
	}
	if err := n.Shim.CloseStdin(n.Ctx, r.ID); err != nil {
		t.Fatal(err)
	}
	if err := b.Wait(n.Ctx); err != nil {
		t.Error(err)
	}
	<-b.Ended
	if !strings.HasSuffix(b.Out.String(), "end of input\n") {
		t.Errorf("output %q", b.Out)
	}
	n.Exit(r)
	if out := n.Output(r); !strings.Contains(out, "got one\n") || !strings.Contains(out, "end of input\n") {
		t.Errorf("log %q", out)
	}
	if _, err := n.Shim.Attach(n.Ctx, &shimapi.AttachRequest{ID: r.ID}, nil); shimnode.KindOfError(err) != shimapi.KindNotRunning {
		t.Errorf("attach after the end: %v", err)
	}
}

func TestStdinOnce(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	for name, end := range map[string]func(*shimnode.Client){
		"end of input": func(c *shimnode.Client) { _ = c.In.Close() },
		"hang-up":      func(c *shimnode.Client) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := n.Run(pod, "cat; echo ended", shimnode.WithStdin(true))
			c := n.Attach(r)
			if _, err := c.In.WriteString("data\n"); err != nil {
				t.Fatal(err)
			}
			shimnode.Eventually(t, "echo", func() bool { return strings.Contains(c.Out.String(), "data") })
			end(c)
			n.Exit(r)
			if out := n.Output(r); out != "data\nended\n" {
				t.Errorf("log %q", out)
			}
		})
	}
}

func TestContainerTerminal(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "read a; stty size; echo got $a; exit 4", shimnode.Terminal)
	c := n.Attach(r)
	if err := n.Shim.Resize(n.Ctx, &shimapi.ResizeRequest{ID: r.ID, Width: 90, Height: 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.In.WriteString("x\n"); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(r); rec.ExitCode != 4 {
		t.Errorf("record %+v", rec)
	}
	if out := n.Output(r); !strings.Contains(out, "20 90") || !strings.Contains(out, "got x") {
		t.Errorf("log %q", out)
	}
	if err := c.Wait(n.Ctx); err != nil {
		t.Error(err)
	}
}

// TestSlowClient attaches a client that reads nothing. The log gets all of the output, and
// the container goes on when the client is cut off.
func TestSlowClient(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	// The container waits for the client to be cut off; or it ends before.
	for _, lines := range []int{40000, 20000} {
		t.Run(fmt.Sprint(lines), func(t *testing.T) { slowClient(t, n, pod, lines) })
	}
}

func slowClient(t *testing.T, n *shimnode.Node, pod string, lines int) {
	r := n.Run(pod, fmt.Sprintf("read go; seq 1 %d; echo done", lines), shimnode.WithStdin(false))
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	session, err := n.Shim.Attach(n.Ctx, &shimapi.AttachRequest{ID: r.ID, Stdin: true, Stdout: true}, []*os.File{inR, outW})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	defer func() { _, _, _, _ = inR.Close(), inW.Close(), outR.Close(), outW.Close() }()
	if _, err := inW.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n.Exit(r)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the container took %v", took)
	}
	if out := n.Output(r); !strings.HasSuffix(out, fmt.Sprintf("\n%d\ndone\n", lines)) || strings.Count(out, "\n") != lines+1 {
		t.Errorf("log of %d bytes ends %q", len(out), out[len(out)-20:])
	}
}

func TestLogRotation(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "i=0; while [ $i -lt 60 ]; do seq $((i*2000)) $((i*2000+1999)); i=$((i+1)); done")
	var files []string
	for i := range 20 {
		old := filepath.Join(filepath.Dir(r.LogPath), "0.log."+string(rune('a'+i)))
		if err := os.Rename(r.LogPath, old); err != nil {
			t.Fatal(err)
		}
		files = append(files, old)
		if err := n.Shim.Reopen(n.Ctx, r.ID); err != nil {
			if shimnode.KindOfError(err) != shimapi.KindNotRunning {
				t.Error(err)
			}
			break
		}
	}
	n.Exit(r)
	if shimnode.OnDisk(r.LogPath) {
		files = append(files, r.LogPath)
	}
	lines := strings.Split(strings.TrimSuffix(shimnode.ReadLog(t, files...), "\n"), "\n")
	if len(lines) != 120000 || lines[0] != "0" || lines[119999] != "119999" {
		t.Errorf("%d lines in %d files, first %q, last %q", len(lines), len(files), lines[0], lines[len(lines)-1])
	}
}

// TestHugeLog writes 64 MiB in lines of 100 kB and looks at the shim's memory.
func TestHugeLog(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "i=0; while [ $i -lt 671 ]; do head -c 99999 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; printf tail")
	var peak int
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.Exit(r)
	}()
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-time.After(20 * time.Millisecond):
			peak = max(peak, shimnode.PSS(n.Shim.PID()))
		}
	}
	out := n.Output(r)
	want := strings.Repeat(strings.Repeat("x", 99999)+"\n", 671) + "tail"
	if out != want {
		t.Errorf("log of %d bytes, want %d", len(out), len(want))
	}
	t.Logf("shim's PSS at most %d KiB", peak)
	if peak > 24<<10 {
		t.Errorf("shim took %d KiB", peak)
	}
}
