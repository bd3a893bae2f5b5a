package node

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeEnv makes the test binary a daemon that does what the variable says, as
// far as the node can see it.
const fakeEnv = "BERTH_TEST_FAKE_DAEMON"

func TestMain(m *testing.M) {
	if mode := os.Getenv(fakeEnv); mode != "" {
		fakeDaemon(mode)
		return
	}
	os.Exit(m.Run())
}

func fakeDaemon(mode string) {
	if mode == "fails" {
		fmt.Fprintln(os.Stderr, "the reason")
		os.Exit(3)
	}
	if mode == "leaves processes" {
		// A grandchild whose parent is gone, as a shim's container would be.
		_ = exec.Command("sh", "-c", "sleep 1000 & exit 0").Run()
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM)
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		panic(err)
	}
	fmt.Fprint(c, "MAINPID=1\nREADY=1\n")
	<-ended
}

func startFake(t *testing.T, mode string) (*Node, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Start(t.Context(), Options{Binary: self, Env: []string{fakeEnv + "=" + mode}})
}

func TestDaemonThatFailsIsToldWithItsLog(t *testing.T) {
	_, err := startFake(t, "fails")
	if err == nil || !strings.Contains(err.Error(), "exit code 3") || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("Start: %v", err)
	}
}

func TestKillAndRestart(t *testing.T) {
	n, err := startFake(t, "well")
	if err != nil {
		t.Fatal(err)
	}
	first := n.PID()
	if err := n.Kill(); err != nil {
		t.Error(err)
	}
	if n.PID() != 0 {
		t.Error("a killed daemon has a PID")
	}
	if err := n.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.PID() == first || n.PID() == 0 {
		t.Errorf("PID %d after %d", n.PID(), first)
	}
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.Dir); err == nil {
		t.Errorf("%s is still there", n.Dir)
	}
}

// Whatever a daemon leaves is told and removed.
func TestLeaksAreToldAndRemoved(t *testing.T) {
	n, err := startFake(t, "leaves processes")
	if err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("ab", 32)
	mount := filepath.Join(n.State, "pods", id, "shm")
	cgroup := "/sys/fs/cgroup/berth-" + id[:13]
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		cgroup = "/sys/fs/cgroup/memory/berth-" + id[:13]
	}
	pod := filepath.Join(n.Root, "pods", id)
	for _, d := range []string{mount, pod, cgroup} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount("x", mount, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	below, err := descendants(n.keeper.Process.Pid)
	if err != nil || len(below) != 2 { // the daemon and sleep
		t.Errorf("descendants: %v, %v", below, err)
	}
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	n.patience = 100 * time.Millisecond
	err = n.Close()
	if err == nil {
		t.Fatal("no leak was told")
	}
	for _, want := range []string{"sleep 1000", "mount " + mount, "cgroup " + cgroup, "file " + pod} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not told in:\n%v", want, err)
		}
	}
	for _, gone := range []string{n.Dir, cgroup} {
		if _, err := os.Stat(gone); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	for _, p := range below {
		if err := unix.Kill(p.PID, 0); err == nil {
			t.Errorf("still running: %v", p)
		}
	}
}

// A test process that is killed leaves nothing either.
func TestKilledTestProcessLeavesNothing(t *testing.T) {
	n, err := startFake(t, "leaves processes")
	if err != nil {
		t.Fatal(err)
	}
	mount := filepath.Join(n.State, "shm")
	if err := os.MkdirAll(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("x", mount, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	below, err := descendants(n.keeper.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	n.orders.Close() // what the kernel does for a dead process
	if err := n.keeper.Wait(); err != nil {
		t.Error(err)
	}
	for _, p := range below {
		if err := unix.Kill(p.PID, 0); err == nil {
			t.Errorf("still running: %v", p)
		}
	}
	if _, err := os.Stat(n.Dir); err == nil {
		t.Errorf("%s is still there", n.Dir)
	}
	n.orders = nil
	_ = n.Close()
}
