package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"berth/test/client"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	nameBerth      = "berth"
	nameBefore     = "before"
	nameContainerd = "containerd"
)

// runtimeEnv marks a daemon's process tree, so that a shim that was reparented
// is still known as its own.
const runtimeEnv = "BERTH_BENCH_RUNTIME"

const (
	readyTimeout = 30 * time.Second
	stopTimeout  = 15 * time.Second
)

// runtimeUnderTest is one CRI runtime with everything private to it under dir:
// state, berth.sock or containerd.sock, net.d, certs.d, logs, and mostly root.
type runtimeUnderTest struct {
	name   string
	dir    string
	root   string // durable directory: dir/root, or one on the disk
	cgroup string // pods' cgroups are made below
	bridge string
	argv   []string
	// hostNetwork puts pods into the node's network namespace.
	hostNetwork bool
	socket      string

	children *children
	cmd      *exec.Cmd
	exited   chan struct{} // closed when the daemon ended
	cri      *client.Client
}

// start launches the daemon and waits until it says it and its network are ready.
func (r *runtimeUnderTest) start(ctx context.Context) error {
	log, err := os.Create(filepath.Join(r.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	// Not cancelled with ctx: it must still be there to remove its pods.
	r.cmd = exec.CommandContext(context.WithoutCancel(ctx), r.argv[0], r.argv[1:]...)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	// containerd finds its shim and runc by PATH.
	path := filepath.Dir(r.argv[0]) + ":" + os.Getenv("PATH")
	r.cmd.Env = append(os.Environ(), runtimeEnv+"="+r.name, "PATH="+path)
	r.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := r.children.start(r.cmd); err != nil {
		return fmt.Errorf("start %s: %w", r.name, err)
	}
	r.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = r.children.wait(cmd)
		close(exited)
	}(r.cmd, r.exited)
	if r.cri, err = client.Dial("unix://" + r.socket); err != nil {
		return err
	}
	return r.waitReady(ctx)
}

// waitReady asks for the status until both conditions hold. CRI has no event
// for that, hence the ticker.
func (r *runtimeUnderTest) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last string
	for {
		call, done := context.WithTimeout(ctx, time.Second)
		resp, err := r.cri.Runtime.Status(call, &runtimeapi.StatusRequest{})
		done()
		if err != nil {
			last = err.Error()
		} else if last = notReady(resp.GetStatus()); last == "" {
			return nil
		}
		select {
		case <-r.exited:
			return fmt.Errorf("%s ended while starting: %v; its log ends:\n%s", r.name, r.cmd.ProcessState, r.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v: %s; its log ends:\n%s", r.name, readyTimeout, last, r.logTail())
		case <-tick.C:
		}
	}
}

// notReady gives the first condition of the CRI that is false, or "". containerd has one more,
// that nothing deprecated is used.
func notReady(status *runtimeapi.RuntimeStatus) string {
	for _, c := range status.GetConditions() {
		if !c.GetStatus() && (c.GetType() == runtimeapi.RuntimeReady || c.GetType() == runtimeapi.NetworkReady) {
			return c.GetType() + ": " + c.GetReason() + " " + c.GetMessage()
		}
	}
	return ""
}

// stop ends the daemon; its shims end with their pods, or with the namespace.
func (r *runtimeUnderTest) stop() error {
	if r.cri != nil {
		_ = r.cri.Close()
	}
	if r.exited == nil {
		return nil
	}
	_ = r.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-r.exited:
		return nil
	case <-time.After(stopTimeout):
	}
	_ = r.cmd.Process.Kill()
	<-r.exited
	return fmt.Errorf("%s did not end within %v of SIGTERM and was killed", r.name, stopTimeout)
}

// logTail is the end of the daemon's log, for an error message.
func (r *runtimeUnderTest) logTail() string {
	const keep = 3000
	log, err := os.ReadFile(filepath.Join(r.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-keep):])
}

// explain adds the daemon's last words to an error of a call.
func (r *runtimeUnderTest) explain(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w; its log ends:\n%s", r.name, err, r.logTail())
}
