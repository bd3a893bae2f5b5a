package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"berth/test/client"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patience is how long everything up to the first line of log may take; an emulated machine
// sets $BERTH_TEST_PATIENCE.
var patience = max(time.Minute, client.Patience)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	verb := strings.Join(args[:min(len(args), 1)], "")
	switch {
	case verb == "image" && len(args) == 2:
		return writeImage(ctx, args[1])
	case verb == "wait" && len(args) == 2:
		return withDaemon(args[1], func(d daemon) error { return d.wait(ctx) })
	case verb == "run" && len(args) >= 3:
		once := len(args) > 3 && args[3] == "once"
		return withDaemon(args[1], func(d daemon) error { return d.demo(ctx, args[2], once) })
	case verb == "exec" && len(args) > 2:
		return withDaemon(args[1], func(d daemon) error { return d.exec(ctx, args[2:]) })
	case verb == "clean" && len(args) == 2:
		return withDaemon(args[1], func(d daemon) error {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return d.clean(ctx)
		})
	}
	return errors.New("want image FILE, wait SOCKET, run SOCKET LOGDIR [once], exec SOCKET COMMAND... or clean SOCKET")
}

// daemon is a CRI runtime at the other end of a socket.
type daemon struct {
	socket string
	cri    *client.Client
}

func withDaemon(socket string, do func(daemon) error) error {
	cri, err := client.Dial(socket)
	if err != nil {
		return err
	}
	defer cri.Close() //nolint:errcheck // the process ends
	return do(daemon{socket: socket, cri: cri})
}

// wait returns when the daemon serves.
func (d daemon) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := d.cri.Pods(ctx, nil)
	return err
}

// exec runs a command in the only container that runs, and prints what it says.
func (d daemon) exec(ctx context.Context, command []string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	running, err := d.cri.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return err
	}
	if n := len(running.GetContainers()); n != 1 {
		return fmt.Errorf("%d containers run, want one", n)
	}
	r, err := d.cri.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
		ContainerId: running.GetContainers()[0].GetId(), Cmd: command, Timeout: int64(patience.Seconds()),
	})
	if err != nil {
		return err
	}
	if r.GetExitCode() != 0 {
		return fmt.Errorf("%q ended with %d: %s", command, r.GetExitCode(), r.GetStderr())
	}
	_, err = os.Stdout.Write(r.GetStdout())
	return err
}

// clean stops and removes every pod.
func (d daemon) clean(ctx context.Context) error { return d.cri.RemovePods(ctx, nil) }
