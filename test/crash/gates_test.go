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
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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
	g.t.Cleanup(func() { // who stands there still goes on
		_ = f.Close()
		_ = os.Remove(path)
	})
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

// TestNetworkChangesUnderWay: the configuration of the network is replaced, or taken away,
// while a plugin attaches a pod. The pod has what the plugin gave it, and the next daemon
// detaches it by the configuration that attached it. Meanwhile the node says that it has no
// network, and another pod is soon refused for that reason.
func TestNetworkChangesUnderWay(t *testing.T) {
	d, g := withGates(t)
	d.watch()
	before := d.facts()
	list := filepath.Join(d.ConfDir, "10-berth.conflist")
	was, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func() error
		why    string // of the condition and of the refusal
	}{
		"replaced": {func() error {
			other := `{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"nowhere"}]}`
			return os.WriteFile(list, []byte(other), 0o644)
		}, `"nowhere"`},
		"removed": {func() error { return os.Remove(list) }, "no CNI configuration in " + d.ConfDir},
	} {
		t.Run(name, func(t *testing.T) {
			defer d.as(t)()
			g.t = t
			p := d.attachedMeanwhile(g, c.change)
			eventually(t, "the node says why it has no network", func() bool { return strings.Contains(d.network(), c.why) })
			d.refused(c.why)
			detached := g.calls("DEL")
			d.crash() // what the next daemon knows of the network is in its files
			p.Remove()
			if g.calls("DEL") == detached {
				t.Error("the plugin that attached the pod did not detach it")
			}
			if err := os.WriteFile(list, was, 0o644); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the node has its network again", func() bool { return d.network() == "" })
			q := d.pod("after")
			q.works()
			q.Remove()
			d.settled("after a change of the network under way", before)
		})
	}
	d.unnoticed()
}

// attachedMeanwhile makes the change while a plugin attaches a pod, which must work.
func (d *daemon) attachedMeanwhile(g *gates, change func() error) *pod {
	d.t.Helper()
	c := d.podConfig("under-way")
	gt := g.shut("before-ADD")
	answered := make(chan error, 1)
	go func() {
		_, err := d.RunPod(within(d.t), c)
		answered <- err
	}()
	gt.await()
	gt.remove()
	if err := change(); err != nil {
		d.t.Fatal(err)
	}
	gt.open()
	if err := <-answered; err != nil {
		d.t.Fatalf("the pod whose network was being made: %v", err)
	}
	p := d.run(c)
	p.works()
	return p
}

// refused tries a pod, for which there is no network and which is not waited for.
func (d *daemon) refused(why string) {
	d.t.Helper()
	began := time.Now()
	_, err := d.RunPod(within(d.t), d.podConfig("too-late"))
	if took := time.Since(began); err == nil || !strings.Contains(err.Error(), why) || took > patience/2 {
		d.t.Errorf("after %v a pod without a network: %v, want it to tell of %s", took, err, why)
	}
}

// network is why the node has no network; "" when it has.
func (d *daemon) network() string {
	d.t.Helper()
	r, err := d.Runtime.Status(within(d.t), &runtimeapi.StatusRequest{})
	if err != nil {
		d.t.Fatalf("Status: %v", err)
	}
	for _, c := range r.GetStatus().GetConditions() {
		if c.GetType() == runtimeapi.NetworkReady && !c.GetStatus() {
			return c.GetReason() + ": " + c.GetMessage()
		}
	}
	return ""
}
