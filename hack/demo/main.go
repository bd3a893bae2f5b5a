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
)

// patience is how long everything up to the first line of log may take.
const patience = time.Minute

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
	case verb == "clean" && len(args) == 2:
		return withDaemon(args[1], func(d daemon) error {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return d.clean(ctx)
		})
	}
	return errors.New("want image FILE, wait SOCKET, run SOCKET LOGDIR [once] or clean SOCKET")
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

// clean stops and removes every pod.
func (d daemon) clean(ctx context.Context) error { return d.cri.RemovePods(ctx, nil) }
