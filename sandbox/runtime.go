package sandbox

import (
	"context"
	"time"

	"berth/oci"
	"berth/oci/procfs"
	"berth/oci/shims"
	"berth/sandbox/inflight"
)

// Options is what a Runtime is made of.
type Options struct {
	Root    string // durable records
	State   string // sockets, namespaces, mounts; dies with the boot
	Images  Images
	Network Network
	Shims   *shims.Set
	Host    oci.Host
	// Calls are the mutating calls that run; nil: none are shared with others.
	Calls *inflight.Calls
	// Plugins are told of what becomes of pods and containers; nil: there are none.
	Plugins Plugins
	// Mounts are the mounts that the domain makes itself; nil: the kernel's.
	Mounts Mounts
	// Handlers are the runtime handlers pods may name besides "".
	Handlers Handlers
	// StopTimeout bounds the wait after SIGKILL before a stop is given up with
	// an error that names the process.
	StopTimeout time.Duration
}

// Runtime is the domain as others see it: the node's pods and containers and every verb
// on them. It has hardly any method of its own but those of its parts, each of which
// can be made and tested without the others. They may be called at the same time from
// any goroutine.
type Runtime struct {
	*index          // Pod, Pods, Container, Containers, ContainersOf, PodIDs
	*podVerbs       // RunPod, StopPod, RemovePod, UpdatePodResources
	*containerVerbs // Create-, Start-, Stop-, Remove- and UpdateContainer, ReopenLog
	*sessions       // ExecSync, Exec, Attach, PortForward
	*statistics     // ContainerStats, PodStats, their lists, MeasurePods
	*subjects       // Subject
	*recovery       // Recover, Settled
	*health         // Ready

	events *broadcaster
}

// New makes a Runtime without pods; Recover loads those on disk and must be called
// once, before any other method.
func New(opt Options) (*Runtime, error) {
	if opt.StopTimeout == 0 {
		opt.StopTimeout = 30 * time.Second
	}
	if opt.Calls == nil {
		opt.Calls = inflight.New()
	}
	if opt.Mounts == nil {
		opt.Mounts = kernelMounts{}
	}
	if opt.Plugins == nil {
		opt.Plugins = noPlugins{}
	}
	tell := teller{opt.Plugins}
	boot, err := procfs.BootID()
	if err != nil {
		return nil, err
	}
	paths := layout{root: opt.Root, state: opt.State}
	if err := paths.makeDirs(); err != nil {
		return nil, err
	}
	h, err := newHealth(paths, opt.Shims)
	if err != nil {
		return nil, err
	}
	ix, events := newIndex(), newBroadcaster()
	t := &teardown{
		paths: paths, index: ix, images: opt.Images, network: opt.Network, mounts: opt.Mounts, shims: opt.Shims,
		host: opt.Host, bootID: boot, events: events, stopTimeout: opt.StopTimeout,
		made: &madeCgroups{top: make(map[string]string)}, tell: tell,
	}
	w := &shimWatch{index: ix, teardown: t, health: h, shims: opt.Shims, host: opt.Host, events: events, ends: newEndings(), aside: make(map[string]chan struct{})}
	return &Runtime{
		index: ix, health: h, events: events,
		podVerbs: &podVerbs{
			paths: paths, index: ix, teardown: t, health: h, network: opt.Network, images: opt.Images, mounts: opt.Mounts,
			host: opt.Host, handlers: opt.Handlers, bootID: boot, events: events, calls: opt.Calls, tell: tell,
		},
		containerVerbs: &containerVerbs{
			paths: paths, index: ix, teardown: t, images: opt.Images, shims: opt.Shims, host: opt.Host,
			bootID: boot, events: events, calls: opt.Calls, looks: &looks{}, tell: tell,
		},
		sessions:   &sessions{index: ix, teardown: t, shims: opt.Shims},
		statistics: newStatistics(paths, ix, opt.Host, opt.Shims),
		subjects:   &subjects{index: ix, host: opt.Host},
		recovery: &recovery{
			paths: paths, index: ix, teardown: t, watch: w, images: opt.Images, network: opt.Network, mounts: opt.Mounts,
			shims: opt.Shims, bootID: boot, events: events, settled: make(chan struct{}), tell: tell,
		},
	}, nil
}

// Subscribe sends every change after it is committed, until ctx ends. A reader
// that falls too far behind is cut off by closing its channel, so that it
// knows to list anew.
func (r *Runtime) Subscribe(ctx context.Context) <-chan Event { return r.events.subscribe(ctx) }

// EventCounts tell how the subscribers keep up.
func (r *Runtime) EventCounts() EventCounts { return r.events.told() }
