package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f in a goroutine with a thread of its own and returns when f has returned. The
// thread ends afterwards.
func Run(f func()) {
	done := make(chan struct{})
	Go(func() { defer close(done); f() })
	<-done
}

// Go starts f in a goroutine with a thread of its own, which ends when f returns.
func Go(f func()) {
	go func() {
		runtime.LockOSThread() // not unlocked after f, so that the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// While this goroutine is locked to the main thread, the next can't get it.
		elsewhere := make(chan struct{})
		Go(func() { close(elsewhere); f() })
		<-elsewhere
		runtime.UnlockOSThread()
	}()
}
