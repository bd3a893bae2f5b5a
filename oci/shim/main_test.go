package shim

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"

	"berth/test/shimnode"
)

// TestMain fails when the tests leave goroutines behind. What needs a shim that runs is in
// package shim_test, which starts one through its client, oci/shims.
func TestMain(m *testing.M) {
	RunInit()
	if dir := os.Getenv(loggerEnv); dir != "" {
		if err := beLogger(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// The first call of Notify starts a goroutine that never ends, and the client calls it.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD)
	signal.Stop(signals)
	sleepers() // has a goroutine for as long as the process
	goroutines := runtime.NumGoroutine()
	code := m.Run()
	shimnode.Clean()
	for range 100 { // goroutines end a moment after what they served
		if runtime.NumGoroutine() <= goroutines {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if left := runtime.NumGoroutine(); code == 0 && left > goroutines {
		buf := make([]byte, 1<<16)
		fmt.Printf("%d goroutines left:\n%s\n", left-goroutines, buf[:runtime.Stack(buf, true)])
		code = 1
	}
	os.Exit(code)
}
