package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/tally"
)

const (
	ownerLabel = "churn-client"
	volumePath = "/volume"
)

// pod is a pod with one container, which holds the layers of its image and of an
// image mounted as a volume.
type pod struct {
	id, container string
	holds         []*picture
	steps         int // of the client until it goes
}

// podStep now and then makes a pod, and ends one that has lived long enough.
func (c *worker) podStep(ctx context.Context) {
	if c.pod == nil {
		if c.rng.IntN(40) == 0 {
			c.makePod(ctx)
		}
		return
	}
	if c.pod.steps--; c.pod.steps <= 0 {
		c.checkPod(ctx)
		c.dropPods(ctx)
	}
}

func (c *worker) makePod(ctx context.Context) {
	img, volume := c.pick(), c.pick()
	p := &pod{holds: []*picture{img, volume}, steps: 5 + c.rng.IntN(40)}
	c.pods++
	conf := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: fmt.Sprintf("churn%d-%d", c.number, c.pods), Namespace: "churn", Uid: fmt.Sprintf("%d-%d", c.number, c.pods)},
		LogDirectory: c.node.LogDir,
		Labels:       map[string]string{ownerLabel: strconv.Itoa(c.number)},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
		}},
	}
	ok := c.call(ctx, "pod", func(ctx context.Context) (err error) { p.id, err = c.cri.RunPod(ctx, conf); return err }) == tally.Fine
	ok = ok && c.makeContainer(ctx, p, conf)
	ok = ok && c.call(ctx, "start", func(ctx context.Context) error { return c.cri.StartContainer(ctx, p.container) }) == tally.Fine
	if !ok {
		c.dropPods(ctx)
		return
	}
	c.pod = p
	for _, h := range p.holds { // from now on the container is what keeps the layers
		if c.rng.IntN(3) > 0 && c.take(ctx) {
			c.remove(ctx, h.id)
		}
	}
}

// makeContainer pulls the two images, which does not count as operations, and
// makes the container before they are removed again: not always at once.
func (c *worker) makeContainer(ctx context.Context, p *pod, conf *runtimeapi.PodSandboxConfig) bool {
	o := tally.Removed
	for range 10 {
		for _, h := range p.holds {
			if c.pull(ctx, "pull for pod", h.names[0], h.id) != tally.Fine {
				return false
			}
		}
		o = c.call(ctx, "container", func(ctx context.Context) (err error) {
			p.container, err = c.cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
				PodSandboxId: p.id, SandboxConfig: conf, Config: containerOf(p.holds[0], p.holds[1]),
			})
			return err
		}, reason{codes.NotFound, tally.Removed})
		if o != tally.Removed {
			break
		}
	}
	return o == tally.Fine
}

func containerOf(img, volume *picture) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "pause"},
		Image:    &runtimeapi.ImageSpec{Image: img.id},
		Mounts: []*runtimeapi.Mount{{
			ContainerPath: volumePath, Readonly: true, Image: &runtimeapi.ImageSpec{Image: volume.id},
		}},
		Linux: &runtimeapi.LinuxContainerConfig{},
	}
}

// checkPod looks whether the container has all it needs: it runs, its files are
// there, and every layer below is what it was.
func (c *worker) checkPod(ctx context.Context) {
	p := c.pod
	o := tally.Cut
	for o == tally.Cut {
		o = c.call(ctx, "check", func(ctx context.Context) error {
			st, err := c.cri.ContainerStatus(ctx, p.container)
			if err == nil && st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
				err = fmt.Errorf("the container is %v: %s", st.GetState(), st.GetReason())
			}
			return err
		})
	}
	if o != tally.Fine {
		return
	}
	rootfs := filepath.Join(c.node.State, "containers", p.container, "rootfs")
	if _, err := os.ReadFile(filepath.Join(rootfs, "pause")); err != nil {
		c.Problem("container %s: %v", p.container, err)
	}
	for _, h := range p.holds {
		for _, chain := range h.chains {
			if err := c.verifier.layer(chain); err != nil {
				c.Problem("container %s: %v", p.container, err)
			}
		}
	}
}

// dropPods ends all pods of this client, however often that is cut short.
func (c *worker) dropPods(ctx context.Context) {
	c.pod = nil
	if c.pods == 0 {
		return
	}
	for o := tally.Cut; o == tally.Cut; {
		o = c.call(ctx, "pod removal", c.dropAll)
	}
}

func (c *worker) dropAll(ctx context.Context) error {
	return c.cri.RemovePods(ctx, map[string]string{ownerLabel: strconv.Itoa(c.number)})
}
