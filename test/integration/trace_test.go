package integration

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/collector"
	"berth/test/node"
)

// callers are a trace and the span of a client in it, as the kubelet sends them.
const callersTrace, callersSpan = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

func traced(t *testing.T) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(within(t), "traceparent", "00-"+callersTrace+"-"+callersSpan+"-01")
}

// wantedTrace is what a trace has of a pull and of a pod's start. There is a line for each
// layer of the pull. Plugins that a pod does not need, such as portmap without ports, are
// not run.
const wantedTrace = `runtime.v1.ImageService/PullImage
  resolve name
  manifest and config
  trust policy
  layer
  commit
runtime.v1.RuntimeService/RunPodSandbox
  choose shim
  pod files
  shim run-pod
    cgroup
    pause process
    network namespace
  network
    plugin bridge
runtime.v1.RuntimeService/CreateContainer
  look at node
  mount root filesystem
  runtime spec
  shim create
    prepare
    init process
runtime.v1.RuntimeService/StartContainer
  shim start
    execute
    await command
runtime.v1.RuntimeService/ExecSync
  shim exec
    process
`

// The kubelet's trace goes on through a pull and through all that starts a pod, down to
// the plugins and to what the shim does. No secret of a request is in what is sent.
func TestTraceOfAPodStart(t *testing.T) {
	c := collector.Start(t)
	s := own(t, node.Options{Args: []string{"--trace-endpoint", c.Endpoint}, Env: []string{"OTEL_BSP_SCHEDULE_DELAY=100"}})
	const secret = "hunter2-of-a-tenant"
	_, err := s.Images.PullImage(traced(t), &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: busybox}, Auth: &runtimeapi.AuthConfig{Username: "user", Password: secret},
	})
	if err != nil {
		t.Fatal(err)
	}
	config := s.podConfig(t)
	config.Annotations = map[string]string{"token": secret}
	run, err := s.Runtime.RunPodSandbox(traced(t), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	p := s.podOf(t, run.GetPodSandboxId(), config)
	t.Cleanup(p.End)
	shell := client.Shell("c", "sleep 1000 # "+secret, func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "TOKEN", Value: []byte(secret)}}
		c.Labels = map[string]string{"token": secret}
	})
	made, err := s.Runtime.CreateContainer(traced(t), p.Request(shell))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Runtime.StartContainer(traced(t), &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()}); err != nil {
		t.Fatal(err)
	}
	exec := &runtimeapi.ExecSyncRequest{ContainerId: made.GetContainerId(), Cmd: []string{"echo", secret}}
	if _, err := s.Runtime.ExecSync(traced(t), exec); err != nil {
		t.Fatal(err)
	}
	client.Eventually(t, "the last call's span has come", func() bool {
		return c.Count("runtime.v1.RuntimeService/ExecSync") > 0
	})
	tree := c.Tree(callersTrace, callersSpan)
	t.Logf("the trace of a pod start:\n%s", tree)
	if layers := regexp.MustCompile(`(  layer\n)+`); layers.ReplaceAllString(tree, "  layer\n") != wantedTrace {
		t.Errorf("the trace is\n%s\nwant\n%s", tree, wantedTrace)
	}
	for _, span := range c.Spans(callersTrace) {
		if span.GetEndTimeUnixNano() < span.GetStartTimeUnixNano() || span.GetStatus().GetMessage() != "" {
			t.Errorf("span %s ended before it began, or has failed: %s", span.GetName(), span.GetStatus().GetMessage())
		}
	}
	if strings.Contains(c.Bytes(), secret) {
		t.Error("what was sent has the secret of a request in it")
	}
}
