package nri

import (
	"context"
	"slices"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// BenchmarkPodUp measures Run, Create and Start of a pod, in turn on a node without NRI, on
// one without a plugin and on one with a plugin that hears everything. Medians in
// milliseconds; -benchtime 100x gives steady ones.
func BenchmarkPodUp(b *testing.B) {
	settings := []string{"off", "none", "one"}
	runtimes := map[string]*runtime{}
	for _, s := range settings {
		opt := node.Options{Tmpfs: true}
		if s == "off" {
			opt.Args = []string{"--nri-socket", "off", "--nri-plugin-dir", ""}
		}
		r, err := start(context.Background(), opt)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := r.node.Close(); err != nil {
				b.Error(err)
			}
		})
		if _, err := r.Pull(context.Background(), client.Busybox); err != nil {
			b.Fatal(err)
		}
		runtimes[s] = r
	}
	p := newPlugin("10-logger", nil)
	if err := p.start(runtimes["one"].socket); err != nil {
		b.Fatal(err)
	}
	defer p.stub.Stop()
	took := map[string][]float64{}
	for b.Loop() {
		for _, s := range settings {
			took[s] = append(took[s], podUp(b, runtimes[s]))
		}
	}
	for _, s := range settings {
		slices.Sort(took[s])
		b.ReportMetric(took[s][len(took[s])/2], "ms/"+s)
	}
	b.ReportMetric(0, "ns/op")
}

// podUp runs a pod with a container, and gives how long it took until it was started.
func podUp(b *testing.B, r *runtime) float64 {
	ctx, cancel := context.WithTimeout(context.Background(), client.Patience)
	defer cancel()
	fail := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "bench", Namespace: "nri", Uid: "bench"},
		Linux:    &runtimeapi.LinuxPodSandboxConfig{},
	}
	began := time.Now()
	pod, err := r.RunPod(ctx, config)
	fail(err)
	id, err := r.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: client.Shell("a", "exec sleep 1000"), SandboxConfig: config})
	fail(err)
	fail(r.StartContainer(ctx, id))
	took := time.Since(began)
	fail(r.StopPod(ctx, pod))
	fail(r.RemovePod(ctx, pod))
	return float64(took.Microseconds()) / 1000
}
