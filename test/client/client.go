package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage is the largest message in bytes: answers to exec and list are larger
// than gRPC's default of 4 MiB.
const maxMessage = 32 << 20

// Client is a connection to a CRI runtime.
type Client struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	Conn    *grpc.ClientConn // for what the generated clients do not have

	// Handler is the runtime handler of the pods that RunPod makes; $BERTH_TEST_HANDLER
	// where a test does not set it, to run tests with another runtime.
	Handler string

	endpoint string
	options  []grpc.DialOption
}

// RuntimeFlags are berthd's flags for the tables of runtimes in $BERTH_TEST_RUNTIME, which a
// run of tests with another handler needs. Spaces stand between the tables, none in them.
func RuntimeFlags() (flags []string) {
	for _, table := range strings.Fields(os.Getenv("BERTH_TEST_RUNTIME")) {
		flags = append(flags, "--runtime="+table)
	}
	return flags
}

// KnowsFlag tells whether a build of berthd, maybe an older one, has a flag.
func KnowsFlag(binary, name string) bool {
	help, _ := exec.Command(binary, "--help").Output() // one that can't run fails when it is started
	return bytes.Contains(help, []byte("-"+name+" "))
}

// Dial connects to endpoint, unix:///PATH. Calls wait until the runtime is there,
// and for at most 50 ms longer when it comes back after a crash; options that
// come later than these defaults win.
func Dial(endpoint string, options ...grpc.DialOption) (*Client, error) {
	soon := backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.2, Jitter: 0.2, MaxDelay: 50 * time.Millisecond}
	c := &Client{Handler: os.Getenv("BERTH_TEST_HANDLER"), endpoint: endpoint, options: append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage), grpc.WaitForReady(true)),
	}, options...)}
	return c, c.Redial()
}

// Redial replaces the connection by a new one. One that saw the runtime die fails
// calls for some time after it is back, unless they wait until it is ready.
func (c *Client) Redial() error {
	_ = c.Close() // nil when it is closed already
	conn, err := grpc.NewClient(c.endpoint, c.options...)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", c.endpoint, err)
	}
	c.Conn = conn
	c.Runtime, c.Images = runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	return nil
}

// Close ends the connection; calls fail from then on. It may be repeated.
func (c *Client) Close() error {
	if c.Conn == nil {
		return nil
	}
	err := c.Conn.Close()
	c.Conn = nil
	return err
}

// in names the call in its error.
func in(call string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}
	return nil
}

// RunPod runs a pod and returns its ID.
func (c *Client) RunPod(ctx context.Context, config *runtimeapi.PodSandboxConfig) (string, error) {
	r, err := c.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: c.Handler})
	return r.GetPodSandboxId(), in("RunPodSandbox", err)
}

// StopPod stops a pod and its containers.
func (c *Client) StopPod(ctx context.Context, id string) error {
	_, err := c.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return in("StopPodSandbox", err)
}

// RemovePod removes a pod and its containers.
func (c *Client) RemovePod(ctx context.Context, id string) error {
	_, err := c.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return in("RemovePodSandbox", err)
}

// Pods lists the pods that have all the labels.
func (c *Client) Pods(ctx context.Context, labels map[string]string) ([]*runtimeapi.PodSandbox, error) {
	r, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: labels},
	})
	return r.GetItems(), in("ListPodSandbox", err)
}

// RemovePods stops and removes the pods that have all the labels. An error does
// not keep it from the other pods.
func (c *Client) RemovePods(ctx context.Context, labels map[string]string) error {
	pods, err := c.Pods(ctx, labels)
	errs := []error{err}
	for _, p := range pods {
		errs = append(errs, c.StopPod(ctx, p.GetId()), c.RemovePod(ctx, p.GetId()))
	}
	return errors.Join(errs...)
}

// PodStatus is the status of a pod.
func (c *Client) PodStatus(ctx context.Context, id string) (*runtimeapi.PodSandboxStatus, error) {
	r, err := c.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	return r.GetStatus(), in("PodSandboxStatus", err)
}

// CreateContainer creates a container in a pod and returns its ID.
func (c *Client) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (string, error) {
	answer, err := c.Runtime.CreateContainer(ctx, r)
	return answer.GetContainerId(), in("CreateContainer", err)
}

// StartContainer starts a created container.
func (c *Client) StartContainer(ctx context.Context, id string) error {
	_, err := c.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	return in("StartContainer", err)
}

// StopContainer stops a container; grace is in whole seconds, 0 kills at once.
func (c *Client) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	_, err := c.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: int64(grace / time.Second)})
	return in("StopContainer", err)
}

// RemoveContainer removes a container, running or not.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	_, err := c.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return in("RemoveContainer", err)
}

// ContainerStatus is the status of a container.
func (c *Client) ContainerStatus(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	r, err := c.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	return r.GetStatus(), in("ContainerStatus", err)
}

// Exec runs a command in a container, for ten seconds at most, and returns its
// standard output. An exit code other than 0 is an error that has both outputs.
func (c *Client) Exec(ctx context.Context, id string, command ...string) (string, error) {
	r, err := c.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: 10})
	if err != nil {
		return "", fmt.Errorf("ExecSync %q: %w", command, err)
	}
	if r.GetExitCode() != 0 {
		return "", fmt.Errorf("%q ended with %d: %s%s", command, r.GetExitCode(), r.GetStdout(), r.GetStderr())
	}
	return string(r.GetStdout()), nil
}

// Pull pulls an image and returns its ID.
func (c *Client) Pull(ctx context.Context, name string) (string, error) {
	r, err := c.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	return r.GetImageRef(), in("PullImage "+name, err)
}

// PullMissing is Pull for an image that may be there already.
func (c *Client) PullMissing(ctx context.Context, name string) (string, error) {
	r, err := c.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	if err != nil {
		return "", in("ImageStatus "+name, err)
	}
	if r.GetImage() != nil {
		return r.GetImage().GetId(), nil
	}
	return c.Pull(ctx, name)
}

// RemoveImage removes an image, with every name of it when name is an ID.
func (c *Client) RemoveImage(ctx context.Context, name string) error {
	_, err := c.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	return in("RemoveImage "+name, err)
}
