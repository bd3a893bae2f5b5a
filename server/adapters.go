package server

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cni"
	"berth/image"
	"berth/oci/failure"
	"berth/oci/tracing"
	"berth/sandbox"
	"berth/server/config"
	"berth/server/runtimes"
)

// images shows an [image.Store] as the domain wants to see it.
type images struct{ store *image.Store }

// Resolve implements [sandbox.Images].
func (i images) Resolve(ref string) (sandbox.Image, error) {
	img, err := i.store.Get(ref)
	switch {
	case errors.Is(err, image.ErrNotFound):
		return sandbox.Image{}, failure.New(sandbox.ErrNotFound, "image %q is not on this node, pull it first", ref)
	case errors.Is(err, image.ErrInvalidReference):
		return sandbox.Image{}, failure.New(sandbox.ErrInvalid, "%w", err)
	case err != nil:
		return sandbox.Image{}, err
	}
	out := sandbox.Image{ID: img.ID, Config: img.Config, Layers: img.Layers}
	if len(img.Digests) > 0 {
		out.Digest = img.Digests[0]
	}
	return out, nil
}

// Hold implements [sandbox.Images].
func (i images) Hold(key string, layers []string) error { return i.store.Hold(key, layers) }

// Release implements [sandbox.Images].
func (i images) Release(key string) { i.store.Release(key) }

// Mount implements [sandbox.Images].
func (i images) Mount(ctx context.Context, r sandbox.RootfsRequest) error {
	return i.store.Mount(ctx, image.MountRequest{
		Layers: r.Layers, Target: r.Target, Upper: r.Upper, Work: r.Work,
		UIDMap: r.UIDMap, GIDMap: r.GIDMap, Label: r.Label,
	})
}

// Unmount implements [sandbox.Images].
func (i images) Unmount(target string) error { return i.store.Unmount(target) }

// handlers shows a [runtimes.Set] as the domain wants to see it.
type handlers struct {
	set    *runtimes.Set
	images *image.Store
}

// Handler implements [sandbox.Handlers]. It pulls the image of the sandbox container when that
// is not on the node.
func (h handlers) Handler(ctx context.Context, name string) (sandbox.Handler, error) {
	means, err := h.set.Handler(ctx, name)
	switch {
	case errors.Is(err, runtimes.ErrUnknown):
		return means, failure.New(sandbox.ErrInvalid, "%w", err)
	case errors.Is(err, runtimes.ErrUnusable):
		return means, failure.New(sandbox.ErrNotReady, "%w", err)
	case err != nil || means.Image == "" || means.NoContainer:
		return means, err
	}
	if _, err := h.images.Get(means.Image); !errors.Is(err, image.ErrNotFound) {
		return means, nil // another error is told when the image is used
	}
	if _, err := h.images.Pull(ctx, image.PullRequest{Reference: means.Image}); err != nil {
		return means, failure.New(sandbox.ErrNotReady,
			"runtime handler %q: the image of its sandbox container is not to be had: %w; see runtime.%s.sandbox_image in the configuration", name, err, name)
	}
	return means, nil
}

// pinned are the images that the kubelet is asked not to collect: those of the configuration
// and of sandbox containers.
func pinned(cfg config.Config) []string {
	all := slices.Clone(cfg.PinnedImages)
	for _, name := range slices.Sorted(maps.Keys(cfg.Runtimes)) {
		if ref := cfg.Runtimes[name].SandboxImage; ref != "" {
			all = append(all, ref)
		}
	}
	return all
}

// network shows a [cni.Network] as the domain wants to see it.
type network struct {
	cni *cni.Network
	// observe is told of every attachment ("add") and detachment ("del"); may be nil.
	observe func(operation string, took time.Duration, err error)
}

// timed runs one operation of the plugins and reports how long it took.
func (n network) timed(ctx context.Context, operation string, run func(context.Context) error) {
	ctx, end := tracing.Begin(ctx, "network", "operation", operation)
	began := time.Now()
	err := run(ctx)
	end(err)
	if n.observe != nil {
		n.observe(operation, time.Since(began), err)
	}
}

// Ready implements [sandbox.Network].
func (n network) Ready() error { return n.cni.Ready() }

// Attach implements [sandbox.Network].
func (n network) Attach(ctx context.Context, p sandbox.PodNetwork) (sandbox.NetworkResult, error) {
	req, err := networkRequest(p)
	if err != nil {
		return sandbox.NetworkResult{}, err
	}
	var res cni.Result
	n.timed(ctx, "add", func(ctx context.Context) error {
		res, err = n.cni.Add(ctx, req)
		return err
	})
	if errors.Is(err, cni.ErrNotReady) {
		err = failure.New(sandbox.ErrNotReady, "%w", err)
	}
	if err != nil {
		return sandbox.NetworkResult{}, err
	}
	return sandbox.NetworkResult{IPs: res.IPs, Raw: res.Raw}, nil
}

// Detach implements [sandbox.Network].
func (n network) Detach(ctx context.Context, p sandbox.PodNetwork) error {
	req, err := networkRequest(p)
	if err != nil {
		req = cni.Request{PodID: p.PodID, NetNS: p.NetNS} // never attached with it; the ID is enough
	}
	req.Restore = p.Foreign
	n.timed(ctx, "del", func(ctx context.Context) error {
		err = n.cni.Del(ctx, req)
		return err
	})
	if errors.Is(err, cni.ErrNotReady) {
		err = failure.New(sandbox.ErrNotReady, "%w", err)
	}
	return err
}

// Forgo implements [sandbox.Network].
func (n network) Forgo(_ context.Context, p sandbox.PodNetwork) error {
	return n.cni.Forgo(cni.Request{PodID: p.PodID, NetNS: p.NetNS})
}

// networkRequest translates what a pod's configuration asks of the network.
func networkRequest(p sandbox.PodNetwork) (cni.Request, error) {
	meta, linux := p.Config.GetMetadata(), p.Config.GetLinux()
	bandwidth, err := cni.BandwidthFrom(p.Config.GetAnnotations())
	if err != nil {
		return cni.Request{}, failure.New(sandbox.ErrInvalid, "%w", err)
	}
	req := cni.Request{
		PodID: p.PodID, NetNS: p.NetNS,
		Name: meta.GetName(), Namespace: meta.GetNamespace(), UID: meta.GetUid(),
		Bandwidth:    bandwidth,
		Annotations:  maps.Clone(p.Config.GetAnnotations()),
		CgroupParent: linux.GetCgroupParent(),
	}
	if dns := p.Config.GetDnsConfig(); dns != nil {
		req.DNS = &cni.DNS{Servers: dns.GetServers(), Searches: dns.GetSearches(), Options: dns.GetOptions()}
	}
	for _, m := range p.Config.GetPortMappings() {
		req.PortMappings = append(req.PortMappings, cni.PortMapping{
			Protocol:      runtimeapi.Protocol_name[int32(m.GetProtocol())],
			ContainerPort: m.GetContainerPort(), HostPort: m.GetHostPort(), HostIP: m.GetHostIp(),
		})
	}
	return req, nil
}
