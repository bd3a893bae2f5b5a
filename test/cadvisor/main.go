package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/google/cadvisor/lib/cache/memory"
	"github.com/google/cadvisor/lib/container"
	_ "github.com/google/cadvisor/lib/container/containerd/install" // as the kubelet has them
	_ "github.com/google/cadvisor/lib/container/crio/install"
	_ "github.com/google/cadvisor/lib/container/systemd/install"
	"github.com/google/cadvisor/lib/manager"
	"github.com/google/cadvisor/lib/metrics"
	"github.com/google/cadvisor/lib/model"
	"github.com/google/cadvisor/lib/utils/sysfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"k8s.io/utils/clock"
)

func main() {
	flag.Parse()
	if err := run(flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(cgroup string) error {
	// pkg/kubelet/cadvisor, New; without PSI, which only some kernels have.
	kinds := container.MetricSet{}
	for _, k := range []container.MetricKind{
		container.CpuUsageMetrics, container.MemoryUsageMetrics, container.DiskIOMetrics, container.DiskUsageMetrics,
		container.NetworkUsageMetrics, container.ProcessMetrics, container.OOMMetrics,
	} {
		kinds[k] = struct{}{}
	}
	interval, dynamic := time.Second, false // the kubelet's are 10 s and true
	house := manager.HousekeepingConfig{Interval: &interval, AllowDynamic: &dynamic}
	m, err := manager.New(memory.New(2*time.Minute, nil), sysfs.NewRealSysFs(), house, kinds, []string{cgroup}, nil, "", 0)
	if err != nil {
		return err
	}
	if err := m.Start(); err != nil {
		return err
	}
	options := model.RequestOptions{IdType: model.TypeName, Count: 1, Recursive: true}
	all := prometheus.NewRegistry()
	all.MustRegister(metrics.NewPrometheusCollector(m, labels, kinds, clock.RealClock{}, options))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := write(all); err != nil {
			return err
		}
	}
	return nil
}

func write(all *prometheus.Registry) error {
	families, err := all.Gather()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(out, f); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, "# EOF")
	return out.Flush()
}

// labels are the kubelet's (pkg/kubelet/server, containerPrometheusLabelsFunc).
func labels(c *model.ContainerInfo) map[string]string {
	name := ""
	if len(c.Aliases) > 0 {
		name = c.Aliases[0]
	}
	return map[string]string{
		metrics.LabelID: c.Name, metrics.LabelName: name, metrics.LabelImage: c.Spec.Image,
		"pod": c.Spec.Labels["io.kubernetes.pod.name"], "namespace": c.Spec.Labels["io.kubernetes.pod.namespace"],
		"container": c.Spec.Labels["io.kubernetes.container.name"],
	}
}
