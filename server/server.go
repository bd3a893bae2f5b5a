package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"berth/server/config"
)

// readersTimeout is how long calls that change nothing may take to end once no
// change is in flight; a client that streams events never ends by itself.
const readersTimeout = time.Second

// Start is what a daemon is started with.
type Start struct {
	Config  config.Config
	Version string
	// Read gives the configuration as its files have it now; it is called at SIGHUP.
	Read func() (config.Config, error)
}

// Run serves the CRI until SIGTERM, SIGINT or the end of ctx, then drains and
// returns nil. An error says why the daemon could not start or had to end.
func Run(ctx context.Context, start Start) error {
	outliveTheLog()
	cfg, version := start.Config, start.Version
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	// What the daemon does for its pods goes on while it drains.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	dumpOnSignal(life)
	hangups := make(chan os.Signal, 1) // before anything is open: SIGHUP would end the process
	signal.Notify(hangups, unix.SIGHUP)
	defer signal.Stop(hangups)

	began := time.Now()
	n, err := open(life, cfg, version)
	if err != nil {
		return err
	}
	defer n.close(life)
	socket, err := listen(ctx, "listen", cfg.SocketPath(), forClients)
	if err != nil {
		return err
	}
	server := n.newServer()
	n.cri.Register(server)
	served := make(chan error, 1)
	front, err := n.openContainerd(life, server)
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	if front != nil {
		n.opened("containerd_socket", func(context.Context) error { return front.close() })
	}
	go func() { served <- server.Serve(socket) }()
	defer server.Stop()

	if err := n.recover(life); err != nil {
		return err
	}
	n.cri.SetReady()
	notify(ctx, daemon.SdNotifyReady)
	if err := n.keepAlive(life); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Ready", "version", version, "socket", cfg.SocketPath(),
		"pods", len(n.pods.Pods()), "containers", len(n.pods.Containers()), "took", time.Since(began).Round(time.Millisecond))

	for ctx.Err() == nil {
		select {
		case err := <-served:
			return fmt.Errorf("serve %s: %w", cfg.SocketPath(), err)
		case <-hangups:
			n.reload(life, start.Read)
		case <-ctx.Done():
		}
	}
	stop() // a second signal ends the process at once
	n.drain(life, server, front)
	return nil
}

// drain lets the calls in flight end, within bounds.
func (n *node) drain(ctx context.Context, server *grpc.Server, front *containerdFront) {
	log := klog.FromContext(ctx)
	bounds, err := n.live.Load().TimeBounds()
	if err != nil { // it was checked
		log.Error(err, "The default is the time that calls have to end")
	}
	log.Info("Stopping; containers live on", "drain", bounds.Drain)
	notify(ctx, daemon.SdNotifyStopping)
	changes, cancel := context.WithTimeout(ctx, bounds.Drain)
	defer cancel()
	if err := n.cri.Drain(changes); err != nil {
		log.Error(err, "Not every call ended in time")
	}
	servers := []*grpc.Server{server}
	if front != nil {
		servers = append(servers, front.server)
	}
	var ended sync.WaitGroup
	for _, s := range servers {
		ended.Go(func() {
			cut := time.AfterFunc(readersTimeout, s.Stop)
			defer cut.Stop()
			s.GracefulStop()
		})
	}
	ended.Wait()
}
