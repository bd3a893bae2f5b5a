package shim

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain fails when the tests leave descriptors or goroutines behind. What
// needs a shim that runs is tested through the client, in package oci.
func TestMain(m *testing.M) {
	RunInit()
	goroutines := runtime.NumGoroutine()
	code := m.Run()
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
