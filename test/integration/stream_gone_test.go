package integration

import (
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// modes are the streams that a client of exec may ask for.
var modes = [][]string{{}, {"-stdin"}, {"-tty", "-size", "80x24"}, {"-tty", "-size", "80x24", "-stdin"}}

func execArgs(c *ctr, mode []string, cmd ...string) []string {
	return append(append(append([]string{}, mode...), "exec", c.ID), cmd...)
}

// A session is more than its first process.
const session = "echo started; sleep 1001 & exec sleep 1002"

// TestStreamClientsKilled kills clients of exec on every path and in every mode, and
// wants that all their sessions had started is gone, and that nothing of them stays
// in the daemon or the shim.
func TestStreamClientsKilled(t *testing.T) {
	c := shared.pod(t).idle("c")
	s := newStreams(t, shared)
	begin := func(i int) *streamClient {
		x := s.start(paths[i%len(paths)], execArgs(c, modes[i/len(paths)%len(modes)], "sh", "-c", session)...)
		x.says("started")
		return x
	}
	waves(1, begin) // what the daemon opens once
	before := ledger{}
	eventually(t, "the first session is gone", func() bool { before = c.count(t); return before.processes == 1 })
	waves(clients, begin)
	c.flat(t, before)
}

// TestStreamClientsLeave has clients that end in order, by a context that is cancelled
// or by the WebSocket's own goodbye.
func TestStreamClientsLeave(t *testing.T) {
	c := shared.pod(t).idle("c")
	s := newStreams(t, shared)
	before := c.count(t)
	for _, p := range paths {
		for _, mode := range modes {
			x := s.start(p, execArgs(c, mode, "sh", "-c", session)...)
			x.says("started")
			x.end(syscall.SIGTERM)
		}
	}
	resp, err := shared.Runtime.Exec(within(t), &runtimeapi.ExecRequest{ContainerId: c.ID, Cmd: []string{"sh", "-c", session}, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(resp.GetUrl())
	if err != nil {
		t.Fatal(err)
	}
	u.Scheme = "ws"
	ws, err := websocket.Dial(u.String(), "v4.channel.k8s.io", "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	for said := ""; !strings.Contains(said, "started"); {
		var m []byte
		if err := websocket.Message.Receive(ws, &m); err != nil {
			t.Fatal(err)
		}
		said += string(m)
	}
	ws.Close()
	c.flat(t, before)
}

// TestStreamBlockedSessions has commands that wait for their client: their output is
// full, or they do not read what it sends, which then stops the daemon's reading before
// the connection's end. The pieces are small and many, for the SPDY library queues a
// number of them, and few enough for the kernel to receive the end behind them: a
// connection whose client died while its window was shut ends after some minutes only,
// by the client's kernel.
func TestStreamBlockedSessions(t *testing.T) {
	const piece = 1 << 10
	pieces := map[string]int{"spdy": 160, "v5": 160, "v4": 100}
	c := shared.pod(t).idle("c")
	s := newStreams(t, shared)
	before := c.count(t)
	for _, p := range paths {
		full := s.start(p, execArgs(c, nil, "sh", "-c", "echo started; exec yes")...)
		full.says("started")
		full.end(syscall.SIGKILL)
		deaf := s.start(p, execArgs(c, []string{"-stdin"}, "sh", "-c", session)...)
		deaf.says("started")
		for range pieces[p.transport] {
			if _, err := deaf.stdin.Write(make([]byte, piece)); err != nil {
				t.Error(err)
			}
		}
		deaf.end(syscall.SIGKILL)
		c.flat(t, before)
		if t.Failed() {
			t.Fatal(p.name)
		}
	}
}

// TestStreamAttachGone kills clients of attach: of a container that says nothing, where
// nothing may stay of them, and of one that writes, which may not wait for them.
func TestStreamAttachGone(t *testing.T) {
	p := shared.pod(t)
	s := newStreams(t, shared)
	t.Run("silent", func(t *testing.T) {
		c := p.in(t).start("silent", "echo up; while read -r line; do echo \"$line\"; done; exec sleep 1000", func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
		c.says("up")
		begin := func(i int) *streamClient {
			x := s.start(paths[i%len(paths)], "-stdin", "attach", c.ID)
			if _, err := x.stdin.Write([]byte("joined\n")); err != nil {
				t.Error(err)
			}
			x.says("joined")
			return x
		}
		one := func() { waves(1, begin) }
		one()
		before := c.count(t)
		eventually(t, "the first client is gone", func() bool { now := c.count(t); same := now == before; before = now; return same })
		for i := range clients {
			x := begin(i) // one at a time: each sees the others' lines
			x.end(syscall.SIGKILL)
		}
		c.flat(t, before)
	})
	for _, path := range paths {
		t.Run(path.name, func(t *testing.T) {
			c := p.in(t).start("writer-"+strings.ReplaceAll(path.name, " ", "-"), writer)
			x := s.start(path, "attach", c.ID)
			x.says("up")
			x.end(syscall.SIGKILL)
			c.neverWaits(t)
		})
	}
}

// writer says that it is up until it is told to go on; then it writes more than fits
// between a container and any client, and after that some lines, slowly.
const writer = `until [ -e /go ]; do echo up; usleep 50000; done
head -c 24000000 /dev/zero | tr '\0' a | fold -w 1000; echo
i=0; while [ $i -lt 100 ]; do echo tick $i; i=$((i+1)); usleep 20000; done; exec sleep 1000`

// neverWaits lets a writer go on, and looks at the times in its log.
func (c *ctr) neverWaits(t *testing.T) {
	t.Helper()
	const pause = 3 * time.Second // the machine is busy; a wait for a client takes longer
	c.Sh("touch /go")
	c.says(" F tick 99\n")
	lines := readLog(t, c.LogFile())
	for i, l := range lines[1:] {
		if gap := l.At.Sub(lines[i].At); gap > pause {
			t.Errorf("the container waited for %v after %.20q", gap, lines[i].Text)
		}
	}
}

// TestStreamDaemonStops stops berthd, a process of its own, while clients are at work:
// none may take that for a success of its command.
func TestStreamDaemonStops(t *testing.T) {
	n := own(t, node.Options{})
	c := n.pod(t).start("c", "while :; do echo up; usleep 50000; done")
	s := newStreams(t, n)
	var all []*streamClient
	for _, p := range paths {
		for _, mode := range modes {
			x := s.start(p, execArgs(c, mode, "sh", "-c", session)...)
			x.says("started")
			all = append(all, x)
		}
		x := s.start(p, "attach", c.ID)
		x.says("up")
		all = append(all, x)
	}
	began := time.Now()
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > client.Bound(10*time.Second) {
		t.Errorf("berthd took %v to stop", took)
	}
	for _, x := range all {
		if code := x.wait(); code != 125 || !strings.Contains(x.stderr.String(), "berth is stopping") {
			t.Errorf("%s ended with %d: %s", x.what, code, x.stderr.String())
		}
	}
	if err := n.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sessions are gone", func() bool { return len(pids(t, c)) <= 2 })
}
