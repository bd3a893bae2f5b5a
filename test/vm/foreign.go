package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"berth/cni"
	"berth/test/registry"
	"berth/test/testlog"
)

// critest runs the suite of the CRI, as test/critest does.
func (g *guest) critest(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(g.out, "critest"), 0o755); err != nil {
		return err
	}
	args := []string{"-suite", "bin/critest", "-timeout", time.Until(g.plan.Deadline).String()}
	if g.plan.Run != "" {
		args = append(args, "-focus", g.plan.Run)
	}
	err := g.logged(ctx, "critest", nil, filepath.Join(g.bundle, "critest"), args...)
	report := filepath.Join(g.out, "critest", "report.json")
	return errors.Join(err,
		copyFile("bin/critest.log", filepath.Join(g.out, "critest", "suite.log")),
		copyFile("bin/critest-report.json", report), g.specs("critest", report))
}

// specs tells the results of a report of ginkgo's.
func (g *guest) specs(suite, report string) error {
	specs, err := testlog.ReadGinkgo(report)
	for _, s := range specs {
		one := result{Suite: suite, Test: s.Name(), Outcome: failed, Seconds: s.RunTime.Seconds(), Message: s.Failure.Message}
		switch s.State {
		case "passed":
			one.Outcome = passed
		case "skipped", "pending":
			one.Outcome = skipped
		}
		g.tell(one)
	}
	return err
}

// bench runs test/bench, whose table is its log, with few samples: the machine may be an
// emulated one.
func (g *guest) bench(ctx context.Context) error {
	args := []string{"-n", "8", "-rounds", "1", "-batch", "8", "-parallel", "2", "-pods", "8", "-idle", "5s", "-pulls", "1",
		"-json", filepath.Join(g.out, "bench.jsonl"), "-logs", filepath.Join(g.out, "bench-daemons")}
	if g.plan.Run != "" {
		args = append(args, "-only", g.plan.Run)
	}
	peer := filepath.Join(g.bundle, "peer")
	args = append(args, "-containerd", filepath.Join(peer, "containerd"), "-streams", filepath.Join(g.bundle, "streams-client"), "-output", "16")
	if !g.plan.Peer {
		args = append(args, "-berth-only")
	}
	return g.logged(ctx, "bench", []string{"PATH=" + peer + ":" + os.Getenv("PATH")}, filepath.Join(g.bundle, "bench"), args...)
}

// kubeletConfig is that of the node tests.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupRoot: /
failSwapOn: false
volumeStatsAggPeriod: 10s
serializeImagePulls: false
fileCheckFrequency: 10s
podCIDR: 10.100.0.0/24
evictionPressureTransitionPeriod: 30s
evictionHard: {memory.available: 250Mi, nodefs.available: "2%", nodefs.inodesFree: "2%"}
`

// node runs Kubernetes' node tests with berthd as a service of systemd. The test binary
// brings its own etcd and API server, and starts the kubelet.
func (g *guest) node(ctx context.Context) error {
	dir, out := filepath.Join(g.bundle, "node"), filepath.Join(g.out, "node")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	reg, err := registry.Start()
	if err != nil {
		return err
	}
	defer reg.Close() // its connections end with the machine
	if err := pushNodeImages(reg, filepath.Join(dir, "img")); err != nil {
		return err
	}
	if err := errors.Join(giveAddress(ctx), g.install(ctx, reg, dir)); err != nil {
		return err
	}
	const endpoint = "unix:///run/berth/berth.sock"
	report := filepath.Join(out, "report.json")
	focus, skip := g.plan.Run, `\[Flaky\]` // serial ones may be chosen: they run one at a time, after the others
	if focus == "" {
		focus, skip = `\[NodeConformance\]`, `\[Serial\]|\[Flaky\]|\[Disruptive\]|\[Slow\]`
	}
	name, args := g.ginkgo(filepath.Join(dir, "bin"), report, focus, skip)
	ran := g.logged(ctx, "node", nil, name, append(args,
		"--container-runtime-endpoint="+endpoint, "--image-service-endpoint="+endpoint, "--prepull-images=false",
		"--server-start-timeout=15m", // an emulated machine on a busy host takes more than the two minutes of the tests
		"--container-runtime-process-name=/usr/local/bin/berthd", "--container-runtime-pid-file=", "--systemd-services=berthd",
		"--kubelet-flags=--runtime-cgroups=/system.slice/berthd.service",
		"--report-dir="+out, "--kubelet-config-file="+filepath.Join(dir, "kubelet.yaml"), "--node-name=guest", "-v=2")...)
	journal := g.logged(context.WithoutCancel(ctx), "node", nil, "/usr/bin/journalctl", "-b", "--no-pager", "-u", "berthd")
	return errors.Join(ran, journal, g.specs("node", report))
}

// ginkgo is the command that runs the specs: the test binary, or for several at once
// ginkgo's program, which starts as many of it. The options of the tests come last.
func (g *guest) ginkgo(bin, report, focus, skip string) (name string, args []string) {
	binary, timeout := filepath.Join(bin, "e2e_node.test"), (time.Until(g.plan.Deadline) - reserve).Truncate(time.Second).String()
	if g.plan.Procs < 2 {
		return binary, []string{"--ginkgo.no-color", "--ginkgo.v", "--ginkgo.focus=" + focus, "--ginkgo.skip=" + skip,
			"--ginkgo.json-report=" + report, "--ginkgo.timeout=" + timeout}
	}
	return filepath.Join(bin, ginkgoProgram), []string{"--no-color", "-v", "--focus=" + focus, "--skip=" + skip,
		"--output-dir=" + filepath.Dir(report), "--json-report=" + filepath.Base(report), "--timeout=" + timeout,
		"--procs=" + strconv.Itoa(g.plan.Procs), binary, "--"}
}

// install makes berthd a running service, as make install and an administrator do.
func (g *guest) install(ctx context.Context, reg *registry.Registry, dir string) error {
	list, err := cni.DefaultConflist("berth0", "/var/lib/cni/berth", "10.100.0.0/24")
	if err != nil {
		return err
	}
	driver := ""
	if g.plan.Cgroupfs {
		driver = "cgroup_driver = \"cgroupfs\"\n"
	}
	files := map[string]string{
		"/etc/berth/config.toml":           driver + "cni_bin_dir = [\"" + filepath.Join(g.bundle, "bin/cni") + "\"]\n[runtime.runc]\ntype = \"builtin\"\n[runtime.test-handler]\ntype = \"builtin\"\n",
		"/etc/cni/net.d/10-berth.conflist": string(list),
		// The spec of runtime handlers looks here for the handler's name, whatever runtime runs.
		"/etc/containerd/config.toml":          "# runtimes.test-handler\n",
		filepath.Join(dir, "kubelet.yaml"):     kubeletConfig,
		"/etc/systemd/system/kubelet.slice":    "[Unit]\nDescription=Node tests\n",
		"/etc/systemd/journald.conf.d/vm.conf": "[Journal]\nRateLimitIntervalSec=0\n",
	}
	for file, text := range files {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, p := range []string{"berthd", "berth", "berth-shim", "berth-shim-v2"} {
		if err := copyFile(filepath.Join(g.bundle, "bin", p), filepath.Join("/usr/local/bin", p)); err != nil {
			return err
		}
	}
	return errors.Join(
		copyFile(filepath.Join(g.bundle, "hack/berthd.service"), "/etc/systemd/system/berthd.service"),
		reg.WriteHosts("/etc/berth/certs.d", registry.Upstreams...),
		command(ctx, "systemctl", "daemon-reload"),
		command(ctx, "systemctl", "start", "berthd"),
		swapOn(ctx, "/swap", 1<<30),
	)
}

// giveAddress gives the machine, which has no network, an address and a default route, as
// the API server and the kubelet want them.
func giveAddress(ctx context.Context) error {
	const address, gateway = "10.55.0.1", "10.55.0.2"
	err := os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n"+address+" guest\n"), 0o644)
	for _, args := range [][]string{
		{"link", "add", "outside", "type", "veth", "peer", "name", "nowhere"},
		{"address", "add", address + "/24", "dev", "outside"},
		{"link", "set", "outside", "up"},
		{"link", "set", "nowhere", "up"},
		{"route", "add", "default", "via", gateway},
	} {
		err = errors.Join(err, command(ctx, "ip", args...))
	}
	return err
}

// swapOn gives the machine swap, for the specs of swap; the others do not mind it.
func swapOn(ctx context.Context, file string, size int64) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Close(), command(ctx, "mkswap", file), command(ctx, "swapon", file))
}

// nodeLayers are the archives of NODE/img: a Debian with agnhost, busybox, a program with
// the set-user-ID bit, the sample device plugin, and the files of an image volume.
var nodeLayers = []string{"root", "bb", "nn", "dp", "kitten"}

// nodeImages are the images of the node tests under registry.k8s.io, by the archives that
// they are made of.
var nodeImages = map[string]struct {
	layers []string
	config v1.Config
}{
	"e2e-test-images/agnhost:2.66.1":             {[]string{"root"}, v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}},
	"e2e-test-images/agnhost:2.55":               {[]string{"root"}, v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}},
	"pause:3.10.2":                               {[]string{"root"}, v1.Config{Entrypoint: []string{"/agnhost", "pause"}}},
	"e2e-test-images/nginx:1.27.0-2":             {[]string{"root"}, v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"netexec", "--http-port=80"}}},
	"e2e-test-images/nginx:1.28.0-2":             {[]string{"root"}, v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"netexec", "--http-port=80"}}},
	"e2e-test-images/glibc-dns-testing:2.1.1":    {[]string{"root"}, v1.Config{Cmd: []string{"sleep", "3600"}}},
	"e2e-test-images/busybox:1.37.0-2":           {[]string{"bb"}, v1.Config{Cmd: []string{"sh"}}},
	"e2e-test-images/busybox:1.36.1-1":           {[]string{"bb"}, v1.Config{Cmd: []string{"sh"}}},
	"e2e-test-images/busybox:1.29-2":             {[]string{"bb"}, v1.Config{Cmd: []string{"sh"}}},
	"e2e-test-images/ipc-utils:1.4":              {[]string{"bb"}, v1.Config{Cmd: []string{"sh"}}},
	"e2e-test-images/perl:5.26":                  {[]string{"bb"}, v1.Config{Cmd: []string{"sh"}}},
	"e2e-test-images/nonroot:1.5":                {[]string{"bb"}, v1.Config{Cmd: []string{"sh"}, User: "1234"}},
	"e2e-test-images/sample-device-plugin:1.8.0": {[]string{"bb", "dp"}, v1.Config{Entrypoint: []string{"/sampledeviceplugin", "-alsologtostderr"}}},
	"e2e-test-images/nonewprivs:1.4":             {[]string{"bb", "nn"}, v1.Config{Cmd: []string{"nnp"}}},
	"e2e-test-images/kitten:1.8":                 {[]string{"bb", "kitten"}, v1.Config{}},
}

// pushNodeImages makes the images without compression, which an emulated machine would
// take minutes for.
func pushNodeImages(reg *registry.Registry, dir string) error {
	layers := map[string]v1.Layer{}
	for _, name := range nodeLayers {
		data, err := os.ReadFile(filepath.Join(dir, name+".tar"))
		if err != nil {
			return err
		}
		layers[name] = static.NewLayer(data, types.OCIUncompressedLayer)
	}
	for ref, made := range nodeImages {
		var of []v1.Layer
		for _, l := range made.layers {
			of = append(of, layers[l])
		}
		made.config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
		img, err := registry.Build(made.config, of...)
		if err == nil {
			err = reg.Push("registry.k8s.io/"+ref, img)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
	}
	return nil
}
