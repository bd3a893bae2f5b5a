package thread

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func ExampleRun() {
	before, _ := os.Readlink("/proc/thread-self/cwd")
	var inside string
	Run(func() {
		if unix.Unshare(unix.CLONE_FS) == nil && unix.Chdir("/") == nil {
			inside, _ = os.Readlink("/proc/thread-self/cwd")
		}
	})
	after, _ := os.Readlink("/proc/thread-self/cwd")
	fmt.Println(inside, after == before)
	// Output: / true
}

// TestNeverTheMainThread runs many functions, because the runtime gives the main thread to
// any goroutine. It also counts the threads: each must have ended.
func TestNeverTheMainThread(t *testing.T) {
	const runs = 500
	for range runs {
		Run(func() {
			if unix.Gettid() == unix.Getpid() {
				t.Error("the function runs on the main thread")
			}
			runtime.Gosched()
		})
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if len(threads) > runs/2 {
		t.Errorf("%d threads are left of %d", len(threads), runs)
	}
}
