package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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
	pods   runtimeapi.RuntimeServiceClient
}

func withDaemon(socket string, do func(daemon) error) error {
	conn, err := grpc.NewClient(socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second, Backoff: backoff.Config{
			BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond}}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return err
	}
	defer conn.Close()
	return do(daemon{socket: socket, pods: runtimeapi.NewRuntimeServiceClient(conn)})
}

// wait returns when the daemon serves.
func (d daemon) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := d.pods.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	return err
}

// clean stops and removes every pod.
func (d daemon) clean(ctx context.Context) error {
	list, err := d.pods.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var errs []error
	for _, pod := range list.GetItems() {
		_, err := d.pods.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.GetId()})
		errs = append(errs, err)
		_, err = d.pods.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.GetId()})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
