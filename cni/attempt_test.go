package cni

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/test/fewfiles"
)

const (
	daemonEnv = "BERTH_TEST_DAEMON" // the test binary is a daemon that adds a pod, with these options
	ipamArg   = "ipam-child"        // the test binary is what a plugin delegates to
)

// addAsDaemon adds a pod as a daemon would that is about to be killed.
func addAsDaemon(conf string) int {
	var opt Options
	err := json.Unmarshal([]byte(conf), &opt)
	if err == nil {
		var n *Network
		if n, err = New(opt); err == nil {
			_, err = n.Add(context.Background(), request("/x"))
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// orphan is an ADD that starts a child as an IPAM plugin and then hangs, or fails.
func orphan(c faultConf) int {
	child := exec.Command("/proc/self/exe", ipamArg, c.Fault.Born)
	child.Args[0] = os.Args[0]
	switch c.Fault.Child {
	case "own session":
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	case "no environment":
		child.Env = []string{"PATH=/"}
	}
	told, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		return refuse(11, err.Error())
	}
	_, _ = io.ReadAll(told) // until it is known
	if c.Fault.Add == "fail" {
		return refuse(11, "told to fail")
	}
	_ = unix.Pause()
	return 0
}

// ipamChild tells its PID once somebody listens, then goes on for ever.
func ipamChild(born string) int {
	f, err := os.OpenFile(born, os.O_WRONLY, 0)
	if err != nil {
		return 1
	}
	fmt.Fprintln(f, os.Getpid())
	f.Close()
	os.Stdout.Close()
	_ = unix.Pause()
	return 0
}

// child waits until an IPAM child lives and gives a pidfd of it; -1: it lived.
func (f fault) child(born string) int {
	f.t.Helper()
	in, err := os.OpenFile(born, os.O_RDWR|unix.O_NONBLOCK, 0) // a reader, and not at its end before the child writes
	if err != nil {
		f.t.Fatal(err)
	}
	defer in.Close()
	if err := in.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		f.t.Fatal(err)
	}
	said, err := bufio.NewReader(in).ReadString('\n')
	if err != nil {
		f.t.Fatalf("no child came: %v", err)
	}
	var pid int
	if _, err := fmt.Sscan(said, &pid); err != nil {
		f.t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		unix.Close(fd)
	})
	return fd
}

func hasEnded(pidfd int) bool {
	if pidfd < 0 {
		return true
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

func (f fault) fifo() string {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), "born")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// The daemon is killed in the middle of an ADD. The plugin dies with it, but its child
// would allocate an address after the DEL of the next daemon has freed all.
func TestDelEndsWhatAKilledDaemonStarted(t *testing.T) {
	for _, how := range []string{"plain", "own session", "no environment"} {
		t.Run(how, func(t *testing.T) {
			f := newFault(t)
			born := f.fifo()
			opt := Options{ConfDir: t.TempDir(), CacheDir: filepath.Join(t.TempDir(), "cache"), BinDirs: []string{f.bin},
				Default: conflist(t, "1.0.0", "net", f.conf("m", map[string]any{"born": born, "child": how}))}
			conf, err := json.Marshal(opt)
			if err != nil {
				t.Fatal(err)
			}
			daemon := exec.Command("/proc/self/exe")
			daemon.Env, daemon.Stderr = append(os.Environ(), daemonEnv+"="+string(conf)), os.Stderr
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			child := f.child(born)
			if hasEnded(child) {
				t.Fatal("the child ended by itself")
			}
			if err := daemon.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = daemon.Wait() // it was killed
			n := open(t, opt)
			if err := n.Del(t.Context(), Request{PodID: request("").PodID}); err != nil {
				t.Fatal(err)
			}
			if !hasEnded(child) {
				t.Error("the child of the plugin lives after DEL")
			}
			nothingRemembered(t, n)
			if _, err := os.Stat(n.attemptPath(request("").PodID)); !os.IsNotExist(err) {
				t.Errorf("the attempt is still on record: %v", err)
			}
		})
	}
}

// A plugin that fails may leave its child behind, which would allocate after the DEL.
func TestDelEndsWhatAFailedAddStarted(t *testing.T) {
	f := newFault(t)
	born := f.fifo()
	n := open(t, Options{BinDirs: []string{f.bin},
		Default: conflist(t, "1.0.0", "net", f.conf("m", map[string]any{"born": born, "add": "fail"}))})
	failed := make(chan error, 1)
	go func() {
		_, err := n.Add(context.Background(), request("/x"))
		failed <- err
	}()
	child := f.child(born)
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "told to fail") {
		t.Errorf("Add: %v", err)
	}
	if !hasEnded(child) {
		t.Error("the child of the plugin lives after DEL")
	}
	nothingRemembered(t, n)
}

// The plugin is gone when its pod is removed, and comes back later.
func TestMissingPluginIsOwedUntilItIsBack(t *testing.T) {
	f := newFault(t)
	n := open(t, Options{BinDirs: []string{f.bin}, Default: conflist(t, "1.0.0", "net", f.conf("m", nil))})
	ns := newPodNS(t)
	r := request(ns)
	if _, err := n.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	plugin, away := filepath.Join(f.bin, "fault"), filepath.Join(f.bin, "away")
	if err := os.Rename(plugin, away); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), r); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), f.bin) {
		t.Fatalf("Del without the plugin: %v", err)
	}
	if err := n.Forgo(r); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(ns, unix.MNT_DETACH); err != nil { // the pod goes
		t.Fatal(err)
	}
	if err := n.Ready(); err == nil {
		t.Error("ready without the plugin")
	}
	n.awaitPayment()
	if err := os.Rename(away, plugin); err != nil {
		t.Fatal(err)
	}
	n.debts.mu.Lock()
	n.debts.paid = n.debts.paid.Add(-owedPause)
	n.debts.mu.Unlock()
	if err := n.Ready(); err != nil {
		t.Error(err)
	}
	n.awaitPayment()
	marks(t, f, "ADD m", "DEL m")
	if calls := f.calls(); len(calls) == 2 && calls[1].NetNS != n.keptNetNS(r.PodID) {
		t.Errorf("DEL got the namespace %q, want the one that was kept", calls[1].NetNS)
	}
	nothingRemembered(t, n)
	if isNetNS(n.keptNetNS(r.PodID)) {
		t.Error("the namespace is still kept")
	}
}

// awaitPayment waits for the try in progress to pay debts.
func (n *Network) awaitPayment() {
	n.debts.mu.Lock()
	paying := n.debts.paying
	n.debts.mu.Unlock()
	if paying != nil {
		<-paying
	}
}

// The plugins' GC must neither free what an ADD has just allocated nor hold it up.
func TestGCGivesWayToAdd(t *testing.T) {
	var turns turns
	alone, err := turns.beginGC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	go func() {
		turns.beginAdd()
		close(begun)
	}()
	<-alone.Done() // the ADD has ended it
	select {
	case <-begun:
		t.Error("an ADD runs beside the GC")
	default:
	}
	turns.endGC()
	<-begun
	again := make(chan error, 1)
	go func() {
		_, err := turns.beginGC(t.Context())
		again <- err
	}()
	turns.endAdd()
	if err := <-again; err != nil {
		t.Error(err)
	}
	turns.endGC()
}

// Processes that can't be looked for are not processes that have ended: the attempt is kept, and
// the pod's address with it.
func TestAttemptIsKeptWithoutDescriptors(t *testing.T) {
	n := &Network{opt: Options{CacheDir: t.TempDir()}}
	if err := noteAttempt(n.opt.CacheDir, "pod", os.Getpid()); err != nil {
		t.Fatal(err)
	}
	enough := fewfiles.Spare(t, 0)
	_, lerr := attempt{}.left("pod")
	err := n.endAttempt("pod")
	enough()
	if !errors.Is(lerr, unix.EMFILE) || !errors.Is(err, unix.EMFILE) {
		t.Errorf("without descriptors: %v, %v; want EMFILE", lerr, err)
	}
	if _, err := os.Stat(n.attemptPath("pod")); err != nil {
		t.Errorf("the attempt: %v, want it kept", err)
	}
	if _, err := (attempt{}).left("pod"); err != nil {
		t.Errorf("with descriptors: %v", err)
	}
}
