package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/test/node"
	"berth/test/program"
)

// advisor watches a cgroup as the kubelet's cAdvisor does: it asks for the owner of each
// new one below it as soon as the kernel tells of it.
type advisor struct {
	ctx        context.Context
	containers containersapi.ContainersClient
	tasks      tasksapi.TasksClient

	mu   sync.Mutex
	seen map[string]error // by the ID: what the first question got
}

func newAdvisor(t *testing.T, socket, dir string) *advisor {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	watch, err := fsnotify.NewWatcher()
	if err == nil {
		err = watch.Add(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	a := &advisor{
		ctx:        metadata.AppendToOutgoingContext(context.Background(), "containerd-namespace", "k8s.io"),
		containers: containersapi.NewContainersClient(conn), tasks: tasksapi.NewTasksClient(conn), seen: map[string]error{},
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range watch.Events {
			if e.Has(fsnotify.Create) {
				a.look(filepath.Base(e.Name))
			}
		}
	}()
	t.Cleanup(func() {
		if err := errors.Join(watch.Close(), conn.Close()); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return a
}

// look asks once, as cAdvisor does: what it is refused it never asks for again.
func (a *advisor) look(id string) {
	_, err := a.container(id)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[id] = err
}

func (a *advisor) container(id string) (*containersapi.Container, error) {
	ctx, cancel := context.WithTimeout(a.ctx, 2*time.Second) // cAdvisor's own
	defer cancel()
	r, err := a.containers.Get(ctx, &containersapi.GetContainerRequest{ID: id})
	return r.GetContainer(), err
}

// first is what the first question for an ID got; it waits for that.
func (a *advisor) first(t *testing.T, id string) error {
	t.Helper()
	var err error
	eventually(t, "the cgroup of "+id+" was seen", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		got, ok := a.seen[id]
		err = got
		return ok
	})
	return err
}

// devices are the network devices that cAdvisor reads for a container.
func (a *advisor) devices(t *testing.T, id string) string {
	t.Helper()
	r, err := a.tasks.Get(a.ctx, &tasksapi.GetRequest{ContainerID: id})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", r.GetProcess().GetPid()))
	if err != nil {
		t.Fatal(err)
	}
	return string(dev)
}

// What the kubelet's cAdvisor needs: whose a cgroup is from the moment it is there, and
// the process in whose network namespace the pod's interface is.
func TestContainerdViewOfAPod(t *testing.T) {
	if systemdDriver(t) {
		t.Skip("slices are systemd's to make; this test makes the pod's cgroup itself")
	}
	socket := filepath.Join(t.TempDir(), "containerd.sock")
	s := own(t, node.Options{Args: []string{"--containerd-socket", socket}})
	name := s.CgroupMark + "-view"
	for _, dir := range cgroupDirs(name) {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
	}
	a := newAdvisor(t, socket, dirOf(name, shimapi.SandboxHierarchy))
	p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.CgroupParent = "/" + name
		c.Labels["io.kubernetes.pod.name"] = "p"
	})
	c := p.start("c", "exec sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Labels = map[string]string{"io.kubernetes.container.name": "c"}
		c.Envs = []*runtimeapi.KeyValue{{Key: "TOKEN", Value: []byte("sesame")}}
	})
	check := func(when string) {
		t.Helper()
		sandbox, err := a.container(p.ID)
		if err != nil {
			t.Fatal(err)
		}
		if l := sandbox.GetLabels(); l["io.kubernetes.pod.name"] != "p" || l["io.cri-containerd.kind"] != "sandbox" {
			t.Errorf("%s the sandbox has labels %v", when, l)
		}
		if dev := a.devices(t, p.ID); !strings.Contains(dev, "eth0:") {
			t.Errorf("%s the sandbox has the devices %s", when, dev)
		}
		got, err := a.container(c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if l := got.GetLabels(); l["io.kubernetes.container.name"] != "c" || l["io.cri-containerd.kind"] != "container" || got.GetImage() != busybox {
			t.Errorf("%s the container is %v", when, got)
		}
		spec := string(got.GetSpec().GetValue())
		if !strings.Contains(spec, "/"+name+"/"+c.ID) || strings.Contains(spec, "sesame") {
			t.Errorf("%s its spec is %s", when, spec)
		}
	}
	for _, id := range []string{p.ID, c.ID} {
		if err := a.first(t, id); err != nil {
			t.Errorf("%s was not known when its cgroup was made: %v", id, err)
		}
	}
	check("at first")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(within(t)); err != nil {
		t.Fatal(err)
	}
	s.resubscribe(t)
	eventually(t, "the client is back", func() bool { _, err := a.container(p.ID); return status.Code(err) != codes.Unavailable })
	check("with the next daemon")
	p.Stop()
	if _, err := os.Stat(filepath.Join(dirOf(name, shimapi.SandboxHierarchy), p.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cgroup of a stopped sandbox: %v", err)
	}
}

// cadvisor is the kubelet's, as a process of its own.
type cadvisor struct {
	ask io.Writer
	out *bufio.Scanner
}

func startCadvisor(t *testing.T, socket, cgroup string) *cadvisor {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cadvisor")
	if err := program.Build("test/cadvisor", file); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file, "--containerd", socket, cgroup)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // its end
		cmd.Wait()
	})
	return &cadvisor{ask: in, out: bufio.NewScanner(out)}
}

// missing are those of the wanted metrics, by label, that have no sample with that label now.
func (c *cadvisor) missing(t *testing.T, wanted map[string][]string) []string {
	t.Helper()
	if _, err := fmt.Fprintln(c.ask); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for c.out.Scan() && c.out.Text() != "# EOF" {
		name, labels, _ := strings.Cut(c.out.Text(), "{")
		for label := range wanted {
			if strings.Contains(labels, label) {
				seen[name+" with "+label] = true
			}
		}
	}
	var missing []string
	for label, names := range wanted {
		for _, name := range names {
			if what := name + " with " + label; !seen[what] {
				missing = append(missing, what)
			}
		}
	}
	return missing
}

// The kubelet's own cAdvisor shows names, network and processes, of a pod that is there
// before it and of one that comes later.
func TestCadvisorKnowsPods(t *testing.T) {
	if systemdDriver(t) {
		t.Skip("slices are systemd's to make; this test makes the pod's cgroup itself")
	}
	socket := filepath.Join(t.TempDir(), "containerd.sock")
	s := own(t, node.Options{Args: []string{"--containerd-socket", socket}})
	name := s.CgroupMark + "-cadvisor"
	podIn := func(what string) {
		p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.CgroupParent = "/" + name + "/" + what
			c.Labels["io.kubernetes.pod.name"] = what
		})
		p.start("c", "exec sleep 1000", func(c *runtimeapi.ContainerConfig) {
			c.Labels = map[string]string{"io.kubernetes.pod.name": what, "io.kubernetes.container.name": what + "-c"}
		})
	}
	podIn("first")
	c := startCadvisor(t, socket, "/"+name)
	for _, what := range []string{"first", "later"} {
		if what == "later" {
			podIn(what)
		}
		wanted := map[string][]string{
			`pod="` + what + `"`: {"container_network_receive_bytes_total", "container_network_transmit_packets_dropped_total"},
			`container="` + what + `-c"`: {
				"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_processes",
				"container_threads", "container_file_descriptors", "container_ulimits_soft",
			},
			`image="` + busybox + `"`: {"container_start_time_seconds"},
			`image="berth/pause"`:     {"container_network_receive_errors_total"},
		}
		var missing []string
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the last text of cAdvisor misses %q", missing)
			}
		})
		eventually(t, "cAdvisor shows all of the pod "+what, func() bool { missing = c.missing(t, wanted); return len(missing) == 0 })
	}
}
