package crash

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/test/node"
)

// gated is a CNI plugin that runs the bridge plugin; before and after it waits at
// a gate when there is one of its command's name.
const gated = `#!/bin/sh
wait_at() {
	[ -p "%[1]s/$1" ] || return 0
	echo "$CNI_CONTAINERID" >"%[1]s/$1"
	read -r _ <"%[1]s/$1-go"
}
input=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID" >>"%[1]s/calls"
wait_at "before-$CNI_COMMAND"
for dir in $(IFS=:; echo $CNI_PATH); do
	[ -x "$dir/bridge" ] && break
done
output=$(echo "$input" | "$dir/bridge")
code=$?
wait_at "after-$CNI_COMMAND"
echo "$output"
exit $code
`

// withGates starts a node whose plugin can be held.
func withGates(t *testing.T) (*daemon, *gates) {
	t.Helper()
	g := &gates{t: t, dir: t.TempDir()}
	err := os.WriteFile(filepath.Join(g.dir, "gated"), fmt.Appendf(nil, gated, g.dir), 0o755)
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, node.Options{Tmpfs: true, Args: []string{"--cni-bin-dir", g.dir}})
	list := filepath.Join(d.ConfDir, "10-berth.conflist")
	conf, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	conf = bytes.Replace(conf, []byte(`"type":"bridge"`), []byte(`"type":"gated"`), 1)
	if err := os.WriteFile(list, conf, 0o644); err != nil {
		t.Fatal(err)
	}
	d.crash() // it reads the configuration
	return d, g
}

// gates are pairs of FIFOs: at one a plugin says that it waits, at the other it
// is told to go on.
type gates struct {
	t   *testing.T
	dir string
}

// shut makes a gate.
func (g *gates) shut(name string) *gate {
	g.t.Helper()
	gt := &gate{t: g.t, path: filepath.Join(g.dir, name)}
	gt.came, gt.leave = g.fifo(name), g.fifo(name+"-go")
	return gt
}

func (g *gates) fifo(name string) *os.File {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		g.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = f.Close() })
	return f
}

// calls counts the runs of a command.
func (g *gates) calls(command string) int {
	data, _ := os.ReadFile(filepath.Join(g.dir, "calls"))
	return strings.Count(string(data), command+" ")
}

type gate struct {
	t           *testing.T
	path        string
	came, leave *os.File
}

// await returns when somebody stands at the gate.
func (g *gate) await() {
	g.t.Helper()
	if err := g.came.SetReadDeadline(time.Now().Add(patience)); err != nil {
		g.t.Fatal(err)
	}
	if _, err := g.came.Read(make([]byte, 256)); err != nil {
		g.t.Fatalf("nobody came to %s: %v", filepath.Base(g.path), err)
	}
}

// remove lets later ones pass; who stands there stays.
func (g *gate) remove() {
	g.t.Helper()
	if err := os.Remove(g.path); err != nil {
		g.t.Fatal(err)
	}
}

// open lets one who stands there go on.
func (g *gate) open() {
	g.t.Helper()
	if _, err := g.leave.WriteString("\n"); err != nil {
		g.t.Fatal(err)
	}
}

func TestKilledAtThePlugin(t *testing.T) {
	for _, name := range []string{"before-ADD", "after-ADD", "before-DEL", "after-DEL"} {
		t.Run(name, func(t *testing.T) {
			d, g := withGates(t)
			d.watch()
			before := d.facts()
			verb := runPod
			if strings.HasSuffix(name, "DEL") {
				verb = stopPod
			}
			a := verb(d)
			gt := g.shut(name)
			answered := make(chan error, 1)
			go func() { answered <- a.call(within(t)) }()
			gt.await()
			gt.remove()
			d.kill()
			if err := <-answered; err == nil {
				t.Error("the call succeeded")
			}
			d.restart()
			// A DEL outlives the daemon that began it, and ends after that of the next.
			gt.open()
			a.judge()
			d.settled("after a kill at the plugin", before)
			d.unnoticed()
		})
	}
}

// TestKilledAtTheRegistry kills the daemon while it waits for the n-th blob.
func TestKilledAtTheRegistry(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	before := d.facts()
	for n := 1; n <= 4; n++ { // the configuration and three layers
		a := pullImage(d)
		held := holdBlob(n)
		answered := make(chan error, 1)
		go func() { answered <- a.call(within(t)) }()
		<-held.reached
		d.kill()
		if err := <-answered; err == nil {
			t.Error("the call succeeded")
		}
		held.release()
		d.restart()
		a.judge()
		d.settled(fmt.Sprintf("after a kill at blob %d", n), before)
	}
	d.unnoticed()
}

// hold is a blob that the registry does not give until release.
type hold struct {
	reached  chan struct{}
	release  func()
	released chan struct{}
}

// holdBlob holds the n-th blob that is asked for, after half of it was sent.
func holdBlob(n int) *hold {
	h := &hold{reached: make(chan struct{}), released: make(chan struct{})}
	first := images.Blobs()
	unwrap := images.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") || images.Blobs() != first+n {
				next.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(&half{ResponseWriter: w, hold: h}, r)
		})
	})
	h.release = func() {
		unwrap()
		close(h.released)
	}
	return h
}

// half gives the first half of what is written to it, then waits.
type half struct {
	http.ResponseWriter
	hold *hold
	done bool
}

func (w *half) Write(p []byte) (int, error) {
	if w.done {
		return w.ResponseWriter.Write(p)
	}
	w.done = true
	n, err := w.ResponseWriter.Write(p[:len(p)/2])
	if err != nil {
		return n, err
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	close(w.hold.reached)
	<-w.hold.released
	m, err := w.ResponseWriter.Write(p[n:])
	return n + m, err
}
