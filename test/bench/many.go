package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cni"
	"berth/oci/thread"
)

const (
	// fewPods is how many pods are there when the first pods of a growth are timed.
	fewPods = 50
	// statsCalls is how often each list of statistics is asked for.
	statsCalls = 20
	// restarts is how often the daemon is killed while many pods run.
	restarts = 3
)

// network is what the pods of a growth are attached to.
type network struct {
	name string
	host bool // the node's: no plugin is called
}

// measureGrowth times pods with few and with many pods on the node; on a bridge it also takes
// the plugins' own time. One runtime at a time has its pods, because all share one table of
// mounts and one network namespace.
func (b *bench) measureGrowth(n network) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, r := range b.runtimes {
			if err := b.growthOf(ctx, r, n); err != nil {
				return r.explain(err)
			}
		}
		return nil
	}
}

func (b *bench) growthOf(ctx context.Context, r *runtimeUnderTest, n network) error {
	r.hostNetwork = n.host
	defer func() { r.hostNetwork = false }()
	few, err := b.upTo(ctx, r, nil, fewPods)
	if err != nil {
		return err
	}
	early, err := b.sample(ctx, r, n, fewPods)
	if err != nil {
		return err
	}
	pods, err := b.upTo(ctx, r, few, b.opts.many)
	if err != nil {
		return err
	}
	late, err := b.sample(ctx, r, n, b.opts.many)
	if err != nil {
		return err
	}
	b.report.value("growth."+n.name, r.name, "×", late/early)
	return b.downMany(ctx, r, pods)
}

// upTo brings pods up until there are count of them.
func (b *bench) upTo(ctx context.Context, r *runtimeUnderTest, have []*pod, count int) ([]*pod, error) {
	more, err := b.upMany(ctx, r, count-len(have))
	return append(have, more...), err
}

// sample times pods, one after another, and gives the median of what the runtime needs for
// one: Run, Create and Start less the plugins' own time.
func (b *bench) sample(ctx context.Context, r *runtimeUnderTest, n network, at int) (float64, error) {
	prefix := fmt.Sprintf("growth.%s.%d", n.name, at)
	for range b.opts.n {
		before := accounted(b.cgroup)
		p, up, err := r.up(ctx, containerConfig(b.busybox))
		if err != nil {
			return 0, err
		}
		b.report.time(prefix+".cpu", r.name, accounted(b.cgroup)-before)
		if _, err := r.down(ctx, p); err != nil {
			return 0, err
		}
		b.report.time(prefix, r.name, up.total())
		b.report.time(prefix+".run", r.name, up.run)
		b.report.time(prefix+".create", r.name, up.create)
		b.report.time(prefix+".start", r.name, up.start)
	}
	took := b.report.median(prefix, r.name)
	if n.host {
		return took, nil
	}
	if err := b.timePlugins(ctx, r, prefix+".plugins"); err != nil {
		return 0, err
	}
	return took - b.report.median(prefix+".plugins", r.name), nil
}

// timePlugins calls the plugins alone, with the runtime's configuration and for namespaces
// that no runtime has made.
func (b *bench) timePlugins(ctx context.Context, r *runtimeUnderTest, name string) error {
	alone, err := cni.New(cni.Options{
		ConfDir: filepath.Join(r.dir, "net.d"), BinDirs: []string{b.cniBin}, CacheDir: filepath.Join(r.dir, "alone"),
	})
	if err != nil {
		return err
	}
	for i := range b.opts.n {
		request := cni.Request{PodID: fmt.Sprintf("alone%d", i), Name: "alone", Namespace: "bench"}
		if request.NetNS, err = newNetNS(request.PodID); err != nil {
			return errors.Join(err, alone.Close())
		}
		took, err := timed(func() error { _, err := alone.Add(ctx, request); return err })
		err = errors.Join(err, alone.Del(ctx, request), unix.Unmount(request.NetNS, 0), unix.Unlink(request.NetNS))
		if err != nil {
			return errors.Join(err, alone.Close())
		}
		b.report.time(name, r.name, took)
	}
	return alone.Close()
}

// newNetNS makes a network namespace and gives the path that it is mounted on.
func newNetNS(name string) (path string, err error) {
	path = filepath.Join("/run/netns", name)
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return "", err
	}
	if err := unix.Close(fd); err != nil {
		return "", err
	}
	thread.Run(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
	})
	return path, err
}

// measureStats asks for the statistics of many pods.
func (b *bench) measureStats(ctx context.Context) error {
	return b.withMany(ctx, func(r *runtimeUnderTest) error {
		containers := func() error {
			_, err := r.cri.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
			return err
		}
		pods := func() error {
			_, err := r.cri.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
			return err
		}
		for range statsCalls {
			if err := errors.Join(b.timeList("stats.containers", r, containers), b.timeList("stats.pods", r, pods)); err != nil {
				return err
			}
		}
		return nil
	})
}

// timeList times a call, and the CPU time of the runtime and of this client.
func (b *bench) timeList(name string, r *runtimeUnderTest, call func() error) error {
	before := accounted(b.cgroup)
	spent, err := timed(call)
	b.report.time(name+".cpu", r.name, accounted(b.cgroup)-before)
	b.report.time(name, r.name, spent)
	return err
}

// measureRestart kills the daemon while many pods run, and waits until the next one says
// that all of them are ready.
func (b *bench) measureRestart(ctx context.Context) error {
	return b.withMany(ctx, func(r *runtimeUnderTest) error {
		for range restarts {
			spent, err := r.restart(ctx, b.opts.many)
			if err != nil {
				return err
			}
			b.report.time("restart", r.name, spent)
		}
		return nil
	})
}

// restart kills the daemon, starts another and gives how long that one needs to know count
// ready pods.
func (r *runtimeUnderTest) restart(ctx context.Context, count int) (time.Duration, error) {
	if err := r.cmd.Process.Kill(); err != nil {
		return 0, err
	}
	<-r.exited
	if err := r.cri.Close(); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := r.start(ctx); err != nil {
		return 0, err
	}
	list, err := r.cri.Pods(ctx, nil)
	if err != nil {
		return 0, err
	}
	spent := time.Since(begin)
	ready := 0
	for _, p := range list {
		if p.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			ready++
		}
	}
	if ready < count {
		return 0, fmt.Errorf("%d of %d pods are ready after a restart", ready, count)
	}
	return spent, nil
}

// withMany runs f of each runtime while that one alone has many pods.
func (b *bench) withMany(ctx context.Context, f func(*runtimeUnderTest) error) error {
	for _, r := range b.runtimes {
		pods, err := b.upMany(ctx, r, b.opts.many)
		if err == nil {
			err = f(r)
		}
		if err == nil {
			err = b.downMany(ctx, r, pods)
		}
		if err != nil {
			return r.explain(err)
		}
	}
	return nil
}
