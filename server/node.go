package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/cni"
	"berth/cri"
	"berth/cri/operator"
	"berth/image"
	"berth/oci"
	"berth/oci/shims"
	"berth/sandbox"
	"berth/sandbox/inflight"
	"berth/server/config"
	"berth/server/metrics"
	"berth/server/nri"
	"berth/server/runtimes"
	"berth/server/traces"
)

// readyWait is how long a call that comes during recovery waits before the
// client is told to retry.
const readyWait = 10 * time.Second

// shimsTimeout bounds the wait for empty shims to leave at the end.
const shimsTimeout = 5 * time.Second

// node is all parts of a daemon, opened in this order and closed in reverse.
type node struct {
	cfg     config.Config                 // that the daemon was started with
	live    atomic.Pointer[config.Config] // the same with what was reloaded since
	version string
	images  *image.Store
	network *cni.Network
	host    oci.Host
	shims   *shims.Set
	plugins *nri.Plugins

	runtimes *runtimes.Set

	pods    *sandbox.Runtime
	calls   *inflight.Calls // shared by the pods and the CRI
	cri     *cri.Server
	metrics *metrics.Instruments
	reader  *httpServer      // nil: metrics are not served
	traces  *traces.Exporter // nil: nothing is traced

	closers []closer
}

// closer is how one part is closed.
type closer struct {
	what string
	do   func(context.Context) error
}

// opened notes how to close what was just opened.
func (n *node) opened(what string, do func(context.Context) error) {
	n.closers = append(n.closers, closer{what, do})
}

// close undoes open. What fails is logged: nothing else could be done about it.
func (n *node) close(ctx context.Context) {
	for _, c := range slices.Backward(n.closers) {
		if err := c.do(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Can't close", "what", c.what)
		}
	}
}

// open takes the directories and makes every part of the daemon. On an error
// nothing stays open.
func open(ctx context.Context, cfg config.Config, version string) (_ *node, err error) {
	n := &node{cfg: cfg, version: version, calls: inflight.New(), metrics: metrics.New(version)}
	n.live.Store(&cfg)
	defer func() {
		if err != nil {
			n.close(ctx)
		}
	}()
	for _, step := range []func(context.Context) error{
		n.lock, n.openTraces, n.openImages, n.openNetwork, n.lookAtHost, n.openShims, n.openPlugins, n.openPods, n.openCRI, n.serveMetrics, n.serveProfiles,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *node) lock(ctx context.Context) error {
	for _, dir := range []string{n.cfg.Root, n.cfg.State} {
		l, err := lockDir(ctx, dir, lockPatience)
		if err != nil {
			return err
		}
		n.opened("lock", func(context.Context) error { l.release(); return nil })
	}
	return nil
}

// openTraces comes first of the parts, so that the spans of the others are delivered last.
func (n *node) openTraces(ctx context.Context) error {
	if n.cfg.TraceEndpoint == "" {
		return nil
	}
	exporter, err := traces.Open(ctx, n.cfg.TraceEndpoint, n.version, n.cfg.TraceSampling)
	if err != nil {
		return fmt.Errorf("trace_endpoint: %w", err)
	}
	n.traces = exporter
	n.opened("traces", exporter.Close)
	return nil
}

// newServer makes a gRPC server whose calls are answered by cri.
func (n *node) newServer() *grpc.Server {
	options := n.cri.Interceptors()
	if n.traces != nil {
		options = append(options, n.traces.ServerOption())
	}
	return grpc.NewServer(options...)
}

func (n *node) openImages(context.Context) error {
	trust, err := loadTrust(n.cfg)
	if err != nil {
		return err
	}
	store, err := image.Open(image.Options{
		Root: n.cfg.Root, CertsDirs: n.cfg.CertsDir, Trust: trust,
		MaxParallel: n.cfg.MaxParallelDownloads, PinnedImages: pinned(n.cfg),
		Observe: image.Observer{Pulled: n.metrics.Pull, Received: n.metrics.Received},
	})
	if err != nil {
		return fmt.Errorf("open the images: %w", err)
	}
	n.images = store
	n.opened("images", func(context.Context) error { return store.Close() })
	return nil
}

// loadTrust reads the policy that cfg names; nil when it names none. Without a policy
// that was asked for nothing may be trusted.
func loadTrust(cfg config.Config) (*image.TrustPolicy, error) {
	if cfg.TrustPolicy == "" {
		return nil, nil
	}
	policy, err := image.LoadTrustPolicy(cfg.TrustPolicy)
	if err != nil {
		return nil, fmt.Errorf("trust_policy: %w", err)
	}
	return policy, nil
}

func (n *node) openNetwork(context.Context) error {
	fallback, err := defaultNetwork(n.cfg)
	if err != nil {
		return err
	}
	bounds, err := n.cfg.TimeBounds()
	if err != nil {
		return fmt.Errorf("timeouts: %w", err)
	}
	network, err := cni.New(cni.Options{
		ConfDir: n.cfg.CNIConfDir, BinDirs: n.cfg.CNIBinDir,
		CacheDir: filepath.Join(n.cfg.Root, "cni"), Default: fallback,
		Template: n.cfg.CNIConfTemplate, AddTimeout: bounds.CNIAdd, DelTimeout: bounds.CNIDel,
	})
	if err != nil {
		return err
	}
	n.network = network
	n.opened("network", func(context.Context) error { return network.Close() })
	return nil
}

func (n *node) lookAtHost(ctx context.Context) error {
	host, err := oci.DetectHost()
	if err != nil {
		return fmt.Errorf("look at the host: %w", err)
	}
	switch n.cfg.CgroupDriver {
	case "systemd":
		if !systemdRuns() {
			return errors.New(`cgroup_driver: "systemd" needs a host whose init is systemd; leave it empty or say "cgroupfs"`)
		}
		host.SystemdCgroup = true
	case "cgroupfs":
		host.SystemdCgroup = false
	}
	if host.Defaults, err = containerDefaults(n.cfg); err != nil {
		return err
	}
	host.SeccompRoot, host.CreateSources, host.CDIDirs = n.cfg.SeccompRoot, n.cfg.CreateHostPaths, n.cfg.CDISpecDirs
	host.AllowedDevices = n.cfg.AllowedDevices
	if err := oci.LoadAppArmorDefault(&host); err != nil {
		klog.FromContext(ctx).Error(err, "Containers are refused unless they are privileged or ask for AppArmor profile Unconfined or Localhost")
	}
	n.host = host
	sayLimits(ctx, host)
	return nil
}

// systemdRuns tells whether systemd is the init, as sd_booted(3) does.
func systemdRuns() bool {
	info, err := os.Stat("/run/systemd/system")
	return err == nil && info.IsDir()
}

func (n *node) openShims(ctx context.Context) error {
	binary, err := shimBinary(n.cfg.ShimBinary)
	if err != nil {
		return err
	}
	n.runtimes = runtimes.New(ctx, runtimes.Options{
		Tables: n.cfg.Runtimes, Driver: foreignBinary(binary), State: n.cfg.State,
		SystemdCgroup: n.host.SystemdCgroup, Host: n.host.HandlerFeatures(),
	})
	n.opened("runtimes", func(context.Context) error { n.runtimes.Close(); return nil })
	set, err := shims.Open(ctx, shims.Config{
		Binary: binary, Foreign: foreignBinary(binary), StateDir: n.cfg.State, PodsPerShim: n.cfg.PodsPerShim, Scopes: n.host.SystemdCgroup,
		LogLevel: n.cfg.LogLevel, Version: n.version,
	})
	if err != nil {
		return fmt.Errorf("connect to the shims: %w", err)
	}
	n.shims = set
	n.opened("shims", func(ctx context.Context) error {
		// A shim without pods has nothing to outlive the daemon for.
		ctx, cancel := context.WithTimeout(ctx, shimsTimeout)
		defer cancel()
		return errors.Join(set.Shutdown(ctx), set.Close())
	})
	return nil
}

// foreignBinary is the program that drives foreign shims. It lies beside the other.
func foreignBinary(binary string) string { return binary + "-v2" }

// shimBinary is the configured path, else berth-shim beside this program, else
// the one in PATH.
func shimBinary(configured string) (string, error) {
	if configured != "" {
		if _, err := os.Stat(configured); err != nil {
			return "", fmt.Errorf("shim_binary: %w", err)
		}
		return configured, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), "berth-shim")
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	path, err := exec.LookPath("berth-shim")
	if err != nil {
		return "", fmt.Errorf("berth-shim is neither %s nor in PATH: install it there, or name it with shim_binary", beside)
	}
	return filepath.Abs(path)
}

func (n *node) openPods(context.Context) error {
	bounds, err := n.cfg.TimeBounds()
	if err != nil {
		return fmt.Errorf("timeouts: %w", err)
	}
	pods, err := sandbox.New(sandbox.Options{
		Root: n.cfg.Root, State: n.cfg.State,
		Images: images{n.images}, Network: network{n.network, n.metrics.Network},
		Shims: n.shims, Host: n.host, Plugins: n.plugins,
		Calls: n.calls, Handlers: handlers{n.runtimes, n.images},
		StopTimeout: bounds.Stop,
	})
	if err != nil {
		return fmt.Errorf("open the pods: %w", err)
	}
	n.pods = pods
	return nil
}

func (n *node) openCRI(context.Context) error {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if n.host.SystemdCgroup {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	encryption, err := streamTLS(n.cfg)
	if err != nil {
		return err
	}
	largest, err := config.ParseSize(n.cfg.MaxMessageSize)
	if err != nil {
		return fmt.Errorf("max_message_size: %w", err)
	}
	server, err := cri.NewServer(cri.Options{
		Domain: n.pods, Calls: n.calls,
		Images: n.images, Archive: n.images, Shims: n.servingShims,
		NetworkReady: n.network.Ready, SetPodCIDR: n.network.SetPodCIDR, Info: n.info,
		Version: n.version, CgroupDriver: driver, Handlers: n.runtimes.Announced,
		Features:      n.host.Features(),
		StreamAddress: n.cfg.StreamAddress, StreamTLS: encryption, StreamIdleTimeout: n.cfg.StreamIdleTimeout,
		ReadyWait: readyWait, MaxMessage: int(largest),
		Observe: n.metrics.Call,
	})
	if err != nil {
		return err
	}
	n.cri = server
	n.opened("streams", func(context.Context) error { return server.Close() })
	return nil
}

func (n *node) servingShims() (out []operator.Shim) {
	for _, s := range n.shims.Serving() {
		out = append(out, operator.Shim{ID: s.ID, PID: s.PID, Version: s.Version, Libcontainer: s.Libcontainer, Pods: s.Pods})
	}
	return out
}

// info is what a verbose Status shows beside the conditions.
func (n *node) info() map[string]any {
	out := map[string]any{"config": n.live.Load(), "runtimes": n.runtimes.States()}
	conf, err := n.network.LastLoad()
	if err != nil {
		out["lastCNILoadStatus"] = err.Error()
		return out
	}
	out["lastCNILoadStatus"] = "OK"
	out["cniconfig"] = conf
	return out
}

// recover takes over what an earlier daemon left, then drops what nobody needs.
func (n *node) recover(ctx context.Context) error {
	if err := n.pods.Recover(ctx); err != nil {
		return fmt.Errorf("recover the pods: %w", err)
	}
	log := klog.FromContext(ctx)
	n.startPlugins(ctx)
	// A layer that an image made huge takes minutes to be removed; all else goes on.
	n.aside(ctx, "sweep", func(ctx context.Context) {
		if err := n.images.Sweep(ctx); err != nil && ctx.Err() == nil {
			log.Error(err, "Not all unused layers could be removed")
		}
	})
	n.aside(ctx, "cleaning of the network", n.freeNetwork)
	n.seed(ctx)
	return nil
}

// aside runs do for as long as it takes, at most until the node is closed, which waits
// for it.
func (n *node) aside(ctx context.Context, what string, do func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	n.opened(what, func(context.Context) error {
		cancel()
		<-done
		return nil
	})
	go func() {
		defer close(done)
		do(ctx)
	}()
}

// freeNetwork frees what the network holds for pods that are no more. It runs aside: a
// plugin may hang, or need a pod of this node.
func (n *node) freeNetwork(ctx context.Context) {
	select { // these detach their pods themselves
	case <-n.pods.Settled():
	case <-ctx.Done():
		return
	}
	err := n.network.GC(ctx, func() []cni.Attachment {
		var known []cni.Attachment
		for _, id := range n.pods.PodIDs() {
			known = append(known, cni.Attachment{PodID: id})
		}
		return known
	})
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Not all of the network of earlier pods could be released")
	}
}

// seed begins to load what seed_dir holds. It may be gigabytes, so nothing waits for
// it; a pod whose image is not loaded yet is tried again by the kubelet.
func (n *node) seed(ctx context.Context) {
	if n.cfg.SeedDir == "" {
		return
	}
	log := klog.FromContext(ctx)
	n.aside(ctx, "seeds", func(ctx context.Context) {
		images, err := n.images.Seed(ctx, n.cfg.SeedDir)
		if err != nil && ctx.Err() == nil {
			log.Error(err, "Not all images could be loaded", "seedDir", n.cfg.SeedDir)
		}
		log.Info("Images are seeded", "seedDir", n.cfg.SeedDir, "images", len(images))
	})
}
