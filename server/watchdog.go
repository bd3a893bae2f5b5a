package server

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// keepAlive tells systemd's watchdog that the daemon is alive, for as long as it answers
// calls on its own socket, until ctx ends. Without a watchdog (WatchdogSec= of the unit)
// it does nothing. A daemon that hangs is ended by systemd with SIGABRT, upon which the
// Go runtime writes what every goroutine waits for, and started again.
func (n *node) keepAlive(ctx context.Context) error {
	within, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("systemd's watchdog: %w", err)
	}
	if within == 0 {
		return nil
	}
	conn, err := grpc.NewClient("unix://"+n.cfg.SocketPath(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("systemd's watchdog: %w", err)
	}
	client := runtimeapi.NewRuntimeServiceClient(conn)
	go func() {
		defer conn.Close()
		// A third, as one answer may be late without harm.
		ticks := time.NewTicker(within / 3)
		defer ticks.Stop()
		for {
			if err := alive(ctx, client, within/3); err == nil {
				notify(ctx, daemon.SdNotifyWatchdog)
			} else if ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "The daemon does not answer itself; systemd ends it unless it does soon", "within", within)
			}
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}

// nobody is the ID of no pod and no container.
const nobody = "0000000000000000000000000000000000000000000000000000000000000000"

// alive makes calls whose answers pass through the socket, the table of pods and that of
// containers, and are small however many there are.
func alive(ctx context.Context, client runtimeapi.RuntimeServiceClient, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if _, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: nobody}}); err != nil {
		return err
	}
	_, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: nobody}})
	return err
}
