package server

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"berth/server/config"
)

// next is what systemd is told next, but for pings of its watchdog.
func next(t *testing.T, told <-chan string) string {
	t.Helper()
	for deadline := time.After(20 * time.Second); ; {
		select {
		case got := <-told:
			if got != "WATCHDOG=1" {
				return got
			}
		case <-deadline:
			t.Fatal("systemd is told nothing")
		}
	}
}

// A hangup reloads: the log level changes, a configuration that can't be used changes
// nothing, and the daemon lives. The watchdog is pinged meanwhile.
func TestHangupReloads(t *testing.T) {
	cfg := private(t)
	told := systemd(t)
	t.Setenv("WATCHDOG_USEC", "600000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	was := klog.V(9).Enabled()
	defer func() { _ = new(klog.Level).Set("0") }()
	again := make(chan error, 1)
	reread := func() (config.Config, error) {
		other := cfg
		other.LogLevel = 9
		other.Timeouts = []string{"drain=11s"}
		return other, <-again
	}
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Start{Config: cfg, Version: "v-test", Read: reread}) }()
	expect(t, told, "READY=1")
	expect(t, told, "WATCHDOG=1")
	expect(t, told, "WATCHDOG=1")
	for _, wrong := range []error{errors.New("no such key"), nil} {
		again <- wrong
		if err := unix.Kill(os.Getpid(), unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if got := next(t, told); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
			t.Fatalf("systemd was told %q", got)
		}
		if got := next(t, told); got != "READY=1" {
			t.Fatalf("systemd was told %q", got)
		}
		if got := klog.V(9).Enabled(); got != (wrong == nil) && !was {
			t.Errorf("after a configuration with error %v: level 9 is on: %t", wrong, got)
		}
	}
	stop()
	if got := next(t, told); got != "STOPPING=1" {
		t.Fatalf("systemd was told %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A daemon that does not answer its own calls is not said to be alive.
func TestNoAnswerIsNoSignOfLife(t *testing.T) {
	cfg := private(t)
	told := systemd(t)
	t.Setenv("WATCHDOG_USEC", "90000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		t.Fatal(err)
	}
	socket, err := listen(t.Context(), "listen", cfg.SocketPath(), forClients) // takes connections, and nobody serves them
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	if err := (&node{cfg: cfg}).keepAlive(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-told:
		t.Errorf("systemd was told %q", got)
	case <-time.After(time.Second):
	}
	t.Setenv("WATCHDOG_USEC", "often")
	if err := (&node{cfg: cfg}).keepAlive(ctx); err == nil {
		t.Error("an interval that is no number is no error")
	}
}
