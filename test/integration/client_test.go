package integration

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

var (
	within     = client.Within
	eventually = client.Eventually
)

// pod is a running pod of a test on the node of a suite.
type pod struct {
	*client.Pod
	s *suite
}

// ctr is a container of a test's pod.
type ctr struct {
	*client.Container
	p *pod
}

// kit makes pods on the suite's node for a test.
func (s *suite) kit(t *testing.T) *client.Kit {
	stopped := func(id string) <-chan struct{} {
		return s.events.of(id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	return &client.Kit{Client: s.Client, T: t, LogDir: s.LogDir, Namespace: "test", Stopped: stopped}
}

// podConfig is a pod's configuration named after the test.
func (s *suite) podConfig(t *testing.T) *runtimeapi.PodSandboxConfig {
	t.Helper()
	c := s.kit(t).PodConfig(t.Name())
	c.Labels["test"] = c.GetMetadata().GetName()
	return c
}

// pod runs a pod that ends with the test.
func (s *suite) pod(t *testing.T, change ...func(*runtimeapi.PodSandboxConfig)) *pod {
	t.Helper()
	c := s.podConfig(t)
	for _, f := range change {
		f(c)
	}
	p := &pod{s.kit(t).Run(c), s}
	t.Cleanup(p.End)
	return p
}

// podOf is the pod with an ID, which a test has made by a call of its own.
func (s *suite) podOf(t *testing.T, id string, config *runtimeapi.PodSandboxConfig) *pod {
	return &pod{&client.Pod{Kit: *s.kit(t), ID: id, Config: config}, s}
}

// in gives the pod to a subtest.
func (p *pod) in(t *testing.T) *pod { return &pod{p.In(t), p.s} }

// in gives the container to a subtest.
func (c *ctr) in(t *testing.T) *ctr { return &ctr{c.In(t), c.p.in(t)} }

// pull makes an image present and returns its reference.
func (s *suite) pull(t *testing.T, ref string) string {
	t.Helper()
	return s.kit(t).Have(ref)
}

// create creates a container, which may fail, and returns its ID.
func (p *pod) create(c *runtimeapi.ContainerConfig) (string, error) {
	p.T.Helper()
	made, err := p.TryCreate(c)
	return made.ID, err
}

// ctr is the container with an ID.
func (p *pod) ctr(id string) *ctr {
	return &ctr{&client.Container{Kit: p.Kit, Pod: p.Pod, ID: id}, p}
}

// start creates and starts a container that runs a shell command.
func (p *pod) start(name, script string, change ...func(*runtimeapi.ContainerConfig)) *ctr {
	p.T.Helper()
	return &ctr{p.Start(client.Shell(name, script, change...)), p}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v, want code %v", what, err, want)
	}
}
