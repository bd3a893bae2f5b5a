package server

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/procfs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/sandbox"
	"berth/server/metrics"
)

// usageTimeout bounds the measuring of layers that nobody has measured yet, which the
// first reading after an upgrade may meet.
const usageTimeout = 5 * time.Second

// serveMetrics answers at metrics_address, if it is set, once every part is there.
func (n *node) serveMetrics(ctx context.Context) error {
	kills := &oomKills{}
	n.aside(ctx, "count of OOM kills", func(ctx context.Context) { kills.follow(ctx, n.pods) })
	n.metrics.Watch(func() metrics.State { return n.state(ctx, kills) })
	l, err := listenMetrics(ctx, n.cfg.MetricsAddress)
	if err != nil { // any user can take a port; the pods are worth more than their figures
		klog.FromContext(ctx).Error(err, "Metrics are not served; SIGHUP tries again", "metricsAddress", n.cfg.MetricsAddress)
	}
	n.opened("metrics", func(context.Context) error { return n.readBy(nil) })
	return n.readBy(l)
}

// readBy serves the metrics at l instead of where they were served; nil: nowhere.
func (n *node) readBy(l net.Listener) error {
	var err error
	if n.reader != nil {
		err = n.reader.close()
		n.reader = nil
	}
	if l != nil {
		n.reader = serveHTTP(l, n.metrics.Handler(), metrics.AnswerTimeout, "metrics")
	}
	return err
}

// listenMetrics gives nil for an empty address.
func listenMetrics(ctx context.Context, address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return listen(ctx, "metrics-address", path, forClients)
	}
	return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
}

// state counts what is on the node. All but the store's usage comes from memory, and
// that is what the kubelet asks every few seconds too.
func (n *node) state(ctx context.Context, kills *oomKills) metrics.State {
	s := metrics.State{
		Pods: map[string]int{"ready": 0, "notready": 0}, Containers: map[string]int{"created": 0, "running": 0, "exited": 0, "unknown": 0},
		InFlight: len(n.calls.Names()), Streams: n.cri.Streams(), OOMKilled: kills.count.Load(), Shims: n.shimState(),
		SubscribersCut: n.pods.EventCounts().Cut,
	}
	for _, p := range n.pods.Pods() {
		s.Pods[stateLabel(p.State.String(), "SANDBOX_")]++
	}
	for _, c := range n.pods.Containers() {
		s.Containers[stateLabel(c.State.String(), "CONTAINER_")]++
	}
	s.Images, s.Layers = n.images.Count()
	ctx, cancel := context.WithTimeout(ctx, usageTimeout)
	defer cancel()
	usage, err := n.images.Usage(ctx)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Metrics lack the usage of the image store")
	}
	s.StoreBytes, s.StoreInodes = usage.Bytes, usage.Inodes
	return s
}

// stateLabel is a name of the CRI as a label: CONTAINER_RUNNING is running.
func stateLabel(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

// shimState measures the shims. One that ends meanwhile is left out.
func (n *node) shimState() metrics.Shims {
	s := metrics.Shims{Replacements: n.shims.Replaced()}
	for _, shim := range n.shims.Serving() {
		proc, err := procfs.NewProc(shim.PID)
		if err != nil {
			continue
		}
		stat, err := proc.Stat()
		if err != nil {
			continue
		}
		s.Count++
		s.Memory += uint64(stat.ResidentMemory())
		if start, err := stat.StartTime(); err == nil && (s.Oldest == 0 || start < s.Oldest) {
			s.Oldest = start
		}
	}
	return s
}

// oomKills counts the containers that ended since the daemon started because the kernel
// killed them for memory.
type oomKills struct{ count atomic.Uint64 }

// follow counts until ctx ends. When it falls behind, events are lost and it goes on
// with new ones.
func (k *oomKills) follow(ctx context.Context, pods *sandbox.Runtime) {
	for ctx.Err() == nil {
		for e := range pods.Subscribe(ctx) {
			if e.Type != runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
				continue
			}
			if c, err := pods.Container(e.ContainerID); err == nil && c.Reason == "OOMKilled" {
				k.count.Add(1)
			}
		}
	}
}
