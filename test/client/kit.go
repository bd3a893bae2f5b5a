package client

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Busybox is the image of a container that [Shell] makes.
const Busybox = "docker.io/library/busybox:latest"

// Patience bounds every call and every wait of a test; what it waits for takes
// milliseconds. A machine that is emulated needs more: $BERTH_TEST_PATIENCE, such as 2m.
var Patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("BERTH_TEST_PATIENCE")); err == nil {
		return d
	}
	return usual
}()

// usual is [Patience] where nothing else is asked for.
const usual = 20 * time.Second

// Bound is how long something may take that takes no more than d on a machine with the
// usual [Patience]: longer in proportion on a slower one.
func Bound(d time.Duration) time.Duration {
	return max(d, time.Duration(float64(d)*(float64(Patience)/float64(usual))))
}

// Counter prints 0, 1, 2, … a line each, some fifty a second. It waits for a FIFO that
// nothing is written to: with a process for each wait, twenty counters would be all
// that the machine does.
const Counter = `mkfifo /never; exec 3<>/never; i=0; while :; do echo $i; i=$((i+1)); read -t 0.02 -u 3 never; done`

// Within is a context of [Patience].
func Within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Eventually asks until the answer is yes, for facts that no event tells of. It
// ends the test when the answer stays no for [Patience].
func Eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !yes(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v it is still not so that %s", Patience, what)
		}
	}
}

// Kit makes pods for one test.
type Kit struct {
	*Client
	T         *testing.T
	LogDir    string // gets a directory for each pod
	Namespace string // of the pods
	// Stopped is closed once the runtime has sent the container's
	// CONTAINER_STOPPED_EVENT. Nil: no events are read, the status is asked instead.
	Stopped func(container string) <-chan struct{}
}

// PodConfig is a pod with a log directory of its own and a label uid that no other
// pod has.
func (k *Kit) PodConfig(name string) *runtimeapi.PodSandboxConfig {
	k.T.Helper()
	logs, err := os.MkdirTemp(k.LogDir, "pod-")
	if err != nil {
		k.T.Fatal(err)
	}
	uid := filepath.Base(logs)
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: strings.ReplaceAll(name, "/", "-"), Namespace: k.Namespace, Uid: uid},
		Labels:       map[string]string{"uid": uid},
		LogDirectory: logs,
		Linux:        &runtimeapi.LinuxPodSandboxConfig{},
	}
}

// Run runs a pod, which stays until it is removed.
func (k *Kit) Run(config *runtimeapi.PodSandboxConfig) *Pod {
	k.T.Helper()
	id, err := k.RunPod(Within(k.T), config)
	if err != nil {
		k.T.Fatal(err)
	}
	p := &Pod{Kit: *k, ID: id, Config: config}
	p.IP = p.Status().GetNetwork().GetIp()
	return p
}

// Find lists the pods of a configuration that [Kit.PodConfig] has made.
func (k *Kit) Find(config *runtimeapi.PodSandboxConfig) []*runtimeapi.PodSandbox {
	k.T.Helper()
	pods, err := k.Pods(Within(k.T), config.GetLabels())
	if err != nil {
		k.T.Fatal(err)
	}
	return pods
}

// Have pulls an image unless it is there, and returns its ID.
func (k *Kit) Have(image string) string {
	k.T.Helper()
	id, err := k.PullMissing(Within(k.T), image)
	if err != nil {
		k.T.Fatal(err)
	}
	return id
}

// Pod is a pod of a test, with its address when it became ready.
type Pod struct {
	Kit
	ID, IP string
	Config *runtimeapi.PodSandboxConfig
}

// In gives the pod to a subtest.
func (p *Pod) In(t *testing.T) *Pod {
	q := *p
	q.T = t
	return &q
}

// Status is the pod's status.
func (p *Pod) Status() *runtimeapi.PodSandboxStatus {
	p.T.Helper()
	st, err := p.PodStatus(Within(p.T), p.ID)
	if err != nil {
		p.T.Fatal(err)
	}
	return st
}

// Stop stops the pod.
func (p *Pod) Stop() {
	p.T.Helper()
	if err := p.StopPod(Within(p.T), p.ID); err != nil {
		p.T.Fatal(err)
	}
}

// Remove removes the pod.
func (p *Pod) Remove() {
	p.T.Helper()
	if err := p.RemovePod(Within(p.T), p.ID); err != nil {
		p.T.Fatal(err)
	}
}

// End stops and removes the pod, for the end of a test: it goes on after an error.
func (p *Pod) End() {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	for _, err := range []error{p.StopPod(ctx, p.ID), p.RemovePod(ctx, p.ID)} {
		if err != nil {
			p.T.Error(err)
		}
	}
}

// Containers lists the containers of the pod.
func (p *Pod) Containers() []*runtimeapi.Container {
	p.T.Helper()
	r, err := p.Runtime.ListContainers(Within(p.T), &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.ID},
	})
	if err != nil {
		p.T.Fatalf("ListContainers: %v", err)
	}
	return r.GetContainers()
}

// Shell is a container that runs a shell command of busybox and logs to NAME.log.
func Shell(name, script string, change ...func(*runtimeapi.ContainerConfig)) *runtimeapi.ContainerConfig {
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: Busybox},
		Command:  []string{"sh", "-c", script},
		LogPath:  name + ".log",
		Linux:    &runtimeapi.LinuxContainerConfig{},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

// Request asks for a container in the pod.
func (p *Pod) Request(config *runtimeapi.ContainerConfig) *runtimeapi.CreateContainerRequest {
	return &runtimeapi.CreateContainerRequest{PodSandboxId: p.ID, Config: config, SandboxConfig: p.Config}
}

// TryCreate pulls the image if it is missing, which must succeed, and creates the
// container, which may fail.
func (p *Pod) TryCreate(config *runtimeapi.ContainerConfig) (*Container, error) {
	p.T.Helper()
	p.Have(config.GetImage().GetImage())
	id, err := p.CreateContainer(Within(p.T), p.Request(config))
	return &Container{Kit: p.Kit, Pod: p, ID: id}, err
}

// Create creates a container.
func (p *Pod) Create(config *runtimeapi.ContainerConfig) *Container {
	p.T.Helper()
	c, err := p.TryCreate(config)
	if err != nil {
		p.T.Fatalf("container %s: %v", config.GetMetadata().GetName(), err)
	}
	return c
}

// Start creates and starts a container; it goes with its pod.
func (p *Pod) Start(config *runtimeapi.ContainerConfig) *Container {
	p.T.Helper()
	c := p.Create(config)
	if err := c.TryStart(); err != nil {
		p.T.Fatalf("container %s: %v", config.GetMetadata().GetName(), err)
	}
	return c
}

// Container is a container of a test.
type Container struct {
	Kit
	Pod *Pod
	ID  string
}

// In gives the container to a subtest.
func (c *Container) In(t *testing.T) *Container {
	d := *c
	d.T = t
	return &d
}

// TryStart starts the container, which may fail.
func (c *Container) TryStart() error {
	c.T.Helper()
	return c.StartContainer(Within(c.T), c.ID)
}

// Status is the container's status.
func (c *Container) Status() *runtimeapi.ContainerStatus {
	c.T.Helper()
	st, err := c.ContainerStatus(Within(c.T), c.ID)
	if err != nil {
		c.T.Fatal(err)
	}
	return st
}

// Verbose reads the verbose part of the container's status into info.
func (c *Container) Verbose(info any) *runtimeapi.ContainerStatus {
	c.T.Helper()
	r, err := c.Runtime.ContainerStatus(Within(c.T), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err == nil {
		err = json.Unmarshal([]byte(r.GetInfo()["info"]), info)
	}
	if err != nil {
		c.T.Fatalf("ContainerStatus, verbose: %v", err)
	}
	return r.GetStatus()
}

// Ended waits until the container has ended, and returns its status then.
func (c *Container) Ended() *runtimeapi.ContainerStatus {
	c.T.Helper()
	var event <-chan struct{}
	often := 2 * time.Millisecond
	if c.Stopped != nil { // asked all the same: a missing event must not hide the rest
		event, often = c.Stopped(c.ID), 2*time.Second
	}
	deadline := time.After(Patience)
	for {
		select {
		case <-event:
			return c.Status()
		case <-deadline:
			c.T.Fatalf("the container did not end within %v: %v", Patience, c.Status())
		case <-time.After(often):
			st := c.Status()
			if st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
				continue
			}
			if c.Stopped != nil && !isClosed(event) {
				c.T.Errorf("container %s has ended without a CONTAINER_STOPPED_EVENT", c.ID)
			}
			return st
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Stop stops the container; grace is in whole seconds.
func (c *Container) Stop(grace time.Duration) {
	c.T.Helper()
	if err := c.StopContainer(Within(c.T), c.ID, grace); err != nil {
		c.T.Error(err)
	}
}

// Remove removes the container.
func (c *Container) Remove() {
	c.T.Helper()
	if err := c.RemoveContainer(Within(c.T), c.ID); err != nil {
		c.T.Fatal(err)
	}
}

// Sh runs a shell command in the container, which must succeed, and returns what
// it writes to its standard output.
func (c *Container) Sh(script string) string {
	c.T.Helper()
	out, err := c.Exec(Within(c.T), c.ID, "sh", "-c", script)
	if err != nil {
		c.T.Fatal(err)
	}
	return out
}

// LogFile is the path of the container's log.
func (c *Container) LogFile() string {
	c.T.Helper()
	return c.Status().GetLogPath()
}
