package integration

import (
	"strings"
	"syscall"
	"testing"
)

// A client of attach that takes no output is to hold its container up. The container
// never waits: the client is cut off and told so.
func TestAttackSlowAttach(t *testing.T) {
	c := shared.pod(t).start("c", writer)
	s := newStreams(t, shared)
	before := c.count(t)
	x := s.start(paths[0], "attach", c.ID)
	x.says("up")
	if err := x.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.neverWaits(t)
	if err := x.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if code := x.wait(); code == 0 || !strings.Contains(x.stderr.String(), "cut off") {
		t.Errorf("the client ended with %d: %s", code, x.stderr.String())
	}
	c.flat(t, before)
}

// Programs of a pod never close a connection of port-forward, or never read from it, so
// that what clients leave behind piles up in the daemon. A hundred of them leave nothing.
func TestAttackForwardHeld(t *testing.T) {
	c := shared.pod(t).start("c", "", runs(t, "ports"))
	c.says("ready")
	s := newStreams(t, shared)
	for name, port := range map[string]string{"never closes": "8003", "never reads": "8004"} {
		t.Run(name, func(t *testing.T) {
			ways := forwardPaths()
			begin := func(i int) *streamClient {
				x, at := s.forward(ways[i%len(ways)], c.p.ID, port)
				conn, _ := dialPort(t, at[0])
				if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
					t.Error(err)
				}
				return x
			}
			waves(1, begin)
			before := c.count(t)
			eventually(t, "the first client is gone", func() bool { now := c.count(t); same := now == before; before = now; return same })
			waves(clients, begin)
			// The program has its own ends, until it ends.
			before.processes = c.count(t).processes
			c.flat(t, before)
		})
	}
}
