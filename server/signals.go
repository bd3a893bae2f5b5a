package server

import (
	"context"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// dumpOnSignal writes every goroutine's stack to the log at SIGUSR1, until ctx
// ends: what is it waiting for, asked of a daemon that must not be stopped.
func dumpOnSignal(ctx context.Context) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-signals:
				klog.FromContext(ctx).Info("Goroutines, as asked by SIGUSR1", "stacks", stacks())
			case <-ctx.Done():
				return
			}
		}
	}()
}

// outliveTheLog keeps the process alive when the reader of its standard error is gone, such
// as a journal that has ended: a write there would end a Go program by SIGPIPE (os/signal,
// "SIGPIPE"). The signal is not ignored, which programs that are started would inherit.
func outliveTheLog() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) }

// stacks is the stack of every goroutine, cut at 16 MiB.
func stacks() string {
	for size := 256 << 10; ; size *= 4 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size || size >= 16<<20 {
			return string(buf[:n])
		}
	}
}
