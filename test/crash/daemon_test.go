package crash

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"berth/test/client"
	"berth/test/node"
)

// daemon is a node whose daemon comes and goes.
type daemon struct {
	*node.Node
	t       *testing.T
	witness *ctr
	// shimKills is how often a shim was killed: from the first on, the shims' own
	// processes and files are no facts, since others take their place.
	shimKills int
	// losesLines: the shim dies at any moment, also when it has read a line and not logged it
	// (oci/shim/doc.go).
	losesLines bool
}

// start starts a node that is closed, and searched for leaks, with the test.
func start(t *testing.T, opt node.Options) *daemon {
	t.Helper()
	opt.Registry = images
	n, err := node.Start(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{Node: n, t: t}
	d.hangUp()
	if d.Client, err = dial(n.Endpoint); err != nil {
		t.Fatal(errors.Join(err, n.Close()))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of berthd's log:\n%s", n.Tail(20))
		}
		if d.PID() == 0 {
			d.restart()
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		d.hangUp()
	})
	return d
}

// dial makes a connection on which calls fail at once while there is no daemon.
func dial(endpoint string) (*client.Client, error) {
	return client.Dial(endpoint, grpc.WithDefaultCallOptions(grpc.WaitForReady(false)))
}

// redial connects anew: a connection that saw the daemon die waits a while before
// it tries again.
func (d *daemon) redial() {
	d.t.Helper()
	if err := d.Redial(); err != nil {
		d.t.Fatal(err)
	}
}

// hangUp ends the connection, so that calls fail at once.
func (d *daemon) hangUp() { _ = d.Client.Close() }

// kill ends the daemon as a crash does. It may be dead, or dying, already.
func (d *daemon) kill() {
	d.t.Helper()
	if pid := d.PID(); pid != 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	eventually(d.t, "the daemon is dead", func() bool { return d.PID() == 0 })
	d.hangUp()
}

func (d *daemon) restart() {
	d.t.Helper()
	if err := d.Restart(context.Background()); err != nil { // it has a deadline of its own
		d.t.Fatal(err)
	}
	d.redial()
}

// crash is a kill and a restart.
func (d *daemon) crash() {
	d.t.Helper()
	d.kill()
	d.restart()
}

// listening returns as soon as somebody accepts at the daemon's socket.
func (d *daemon) listening() error {
	path := strings.TrimPrefix(d.Endpoint, "unix://")
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

// logged tells whether the daemon has written text to its log.
func (d *daemon) logged(text string) bool {
	data, err := os.ReadFile(d.LogFile)
	return err == nil && bytes.Contains(data, []byte(text))
}

// shims are the IDs of the shims there are.
func (d *daemon) shims() []string {
	dirs, _ := filepath.Glob(filepath.Join(d.State, "shims", "*"))
	for i := range dirs {
		dirs[i] = filepath.Base(dirs[i])
	}
	return dirs
}

// isGone is true of a path that does not exist.
func isGone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}
