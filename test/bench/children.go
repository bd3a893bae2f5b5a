package main

import (
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// children knows which direct children have somebody waiting for them. The
// bench is PID 1 of its namespace, so the orphans of daemons (shims) become
// its children too, and must be reaped without stealing an exec.Cmd's exit.
type children struct {
	mu    sync.Mutex
	owned map[int]bool
}

// newChildren starts reaping orphans; it goes on until the process ends.
func newChildren() *children {
	c := &children{owned: map[int]bool{}}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	go func() {
		for range signals {
			c.reap()
		}
	}()
	return c
}

// start is cmd.Start for a command that wait will be called for.
func (c *children) start(cmd *exec.Cmd) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	c.owned[cmd.Process.Pid] = true
	return nil
}

// wait is cmd.Wait for a command begun with start.
func (c *children) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	c.mu.Lock()
	delete(c.owned, cmd.Process.Pid)
	c.mu.Unlock()
	c.reap()
	return err
}

// run is cmd.Run.
func (c *children) run(cmd *exec.Cmd) error {
	if err := c.start(cmd); err != nil {
		return err
	}
	return c.wait(cmd)
}

// reap collects dead children nobody owns. It stops at one that is owned, which
// its owner collects and then calls reap again.
func (c *children) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		// si_pid follows three ints and the padding that aligns the union.
		pid := int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16)))
		if err != nil || pid == 0 || c.owned[pid] {
			return
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil {
			return
		}
	}
}
