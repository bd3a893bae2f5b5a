package nri

import (
	"context"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// emptyNode is a node without pods.
type emptyNode struct{}

func (emptyNode) Known() ([]*sandbox.PodStatus, []*sandbox.ContainerStatus)  { return nil, nil }
func (emptyNode) SetLimits(context.Context, string, sandbox.NewLimits) error { return nil }
func (emptyNode) StopContainer(context.Context, string, time.Duration) error { return nil }

// withoutPlugins serves plugins of which none is there.
func withoutPlugins(tb testing.TB) *Plugins {
	tb.Helper()
	p, err := New(Options{RegistrationTimeout: 5 * time.Second, RequestTimeout: 2 * time.Second})
	if err == nil {
		err = p.Start(emptyNode{})
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.Stop)
	return p
}

// tellLife tells all that a pod with one container has in its life.
func tellLife(p *Plugins) error {
	ctx, pod := context.Background(), &sandbox.PodStatus{}
	n := sandbox.ContainerNotice{Pod: pod, Container: &sandbox.ContainerStatus{Spec: []byte("{}")}}
	for _, step := range []sandbox.PodStep{sandbox.PodRun, sandbox.PodStop, sandbox.PodRemove} {
		release := p.Hold()
		if err := p.Pod(ctx, sandbox.PodNotice{Step: step, Pod: pod}); err != nil {
			return err
		}
		release()
	}
	release := p.Hold()
	if err := p.Adjust(ctx, n, bareSpec()); err != nil {
		return err
	}
	release()
	if _, err := p.Update(ctx, n, &runtimeapi.LinuxContainerResources{}); err != nil {
		return err
	}
	for _, n.Step = range []sandbox.ContainerStep{sandbox.ContainerPostCreate, sandbox.ContainerStart, sandbox.ContainerPostStart, sandbox.ContainerStop, sandbox.ContainerRemove} {
		release := p.Hold()
		if _, err := p.Container(ctx, n); err != nil {
			return err
		}
		release()
	}
	return nil
}

// BenchmarkNoPlugins is what a pod with one container costs in this package, in all its
// life, while no plugin is there.
func BenchmarkNoPlugins(b *testing.B) {
	p := withoutPlugins(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := tellLife(p); err != nil {
			b.Fatal(err)
		}
	}
}

// While no plugin is there nothing is described or sent. A pod's description alone would
// need more than this.
func TestNoPluginsCostNothing(t *testing.T) {
	p := withoutPlugins(t)
	const most = 100 // nine holds of five allocations each, and the notices
	if n := testing.AllocsPerRun(100, func() { _ = tellLife(p) }); n > most {
		t.Errorf("a pod's life costs %v allocations, at most %d are right", n, most)
	}
}
