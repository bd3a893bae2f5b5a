package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// attempt is one call that is cut short.
type attempt struct {
	call func(context.Context) error
	// judge looks at what the restarted daemon and the machine have, retries the
	// call, and removes what came of it. It tells what the call had done when it was
	// cut short.
	judge func() outcome
}

// verbs make attempts, with what they need. base are the facts before.
var verbs = map[string]func(d *daemon) attempt{
	"RunPodSandbox":    runPod,
	"StopPodSandbox":   stopPod,
	"RemovePodSandbox": removePod,
	"CreateContainer":  createContainer,
	"StartContainer":   startContainer,
	"StopContainer":    stopContainer,
	"RemoveContainer":  removeContainer,
	"UpdateContainer":  updateContainer,
	"ExecSync":         execSync,
	"PullImage":        pullImage,
	"RemoveImage":      removeImage,
}

func runPod(d *daemon) attempt {
	before := d.facts()
	req := &runtimeapi.RunPodSandboxRequest{Config: d.podConfig("run")}
	return attempt{
		call: func(ctx context.Context) error {
			_, err := d.Runtime.RunPodSandbox(ctx, req)
			return err
		},
		judge: func() outcome {
			d.t.Helper()
			found := d.find(req.Config)
			if len(found) == 0 {
				d.settled("no pod was made", before)
			}
			p := d.run(req.Config) // the retry
			if len(found) > 0 && found[0].GetId() != p.ID {
				d.t.Errorf("there was pod %s, the retry made %s", found[0].GetId(), p.ID)
			}
			p.works()
			p.Stop()
			p.Remove()
			return doneIf(len(found) > 0)
		},
	}
}

// works checks that a ready pod has a network and can run containers.
func (p *pod) works() {
	p.d.t.Helper()
	if st := p.Status(); st.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || st.GetNetwork().GetIp() == "" {
		p.d.t.Errorf("pod %.13s is %v with IP %q", p.ID, st.GetState(), st.GetNetwork().GetIp())
	}
	c := p.start("works", "sleep 1000")
	if got := c.Sh("ip -4 -o addr show eth0"); !strings.Contains(got, p.IP+"/") {
		p.d.t.Errorf("in pod %.13s eth0 is %q, want %s", p.ID, got, p.IP)
	}
	c.Remove()
}

func stopPod(d *daemon) attempt {
	p := d.pod("stop")
	c := p.start("c", "sleep 1000")
	return attempt{
		call: func(ctx context.Context) error {
			_, err := d.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID})
			return err
		},
		judge: func() outcome {
			d.t.Helper()
			ready := p.Status().GetState() == runtimeapi.PodSandboxState_SANDBOX_READY
			if ready {
				p.works() // ready means whole
			} else {
				p.released()
			}
			p.Stop()
			p.released()
			if st := c.Status(); st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 137 {
				d.t.Errorf("container of the stopped pod is %v with code %d", st.GetState(), st.GetExitCode())
			}
			p.Remove()
			return doneIf(!ready)
		},
	}
}

// released checks that a pod that is not ready holds nothing of the machine's.
func (p *pod) released() {
	p.d.t.Helper()
	if st := p.Status().GetState(); st != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		p.d.t.Errorf("pod %.13s is %v", p.ID, st)
	}
	var left node.Facts
	for deadline := time.Now().Add(patience / 4); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left = p.d.naming(p.ID); len(left) == 0 {
			return
		}
	}
	p.d.t.Errorf("pod %.13s is not ready and holds\n%s", p.ID, strings.Join(left, "\n"))
}

func removePod(d *daemon) attempt {
	before := d.facts()
	p := d.pod("remove")
	p.start("c", "sleep 1000")
	return attempt{
		call: func(ctx context.Context) error {
			_, err := d.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID})
			return err
		},
		judge: func() outcome {
			d.t.Helper()
			gone := len(d.find(p.Config)) == 0
			if gone {
				d.settled("the pod is removed", before)
			}
			p.wantContainers(runtimeapi.ContainerState_CONTAINER_RUNNING, runtimeapi.ContainerState_CONTAINER_EXITED)
			p.Remove()
			return doneIf(gone)
		},
	}
}

// wantContainers checks the states of a pod's containers and gives them.
func (p *pod) wantContainers(states ...runtimeapi.ContainerState) []*runtimeapi.Container {
	p.d.t.Helper()
	all := p.Containers()
	for _, c := range all {
		if !slices.Contains(states, c.GetState()) {
			p.d.t.Errorf("container %.13s is %v, want one of %v", c.GetId(), c.GetState(), states)
		}
	}
	return all
}

func createContainer(d *daemon) attempt {
	p := d.pod("create")
	p.works() // the first container makes the pod's cgroup
	before := d.facts()
	req := p.Request(client.Shell("c", "echo once; sleep 1000"))
	req.Config.Mounts = []*runtimeapi.Mount{{
		ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: volume}, Readonly: true,
	}}
	return attempt{
		call: func(ctx context.Context) error {
			_, err := d.Runtime.CreateContainer(ctx, req)
			return err
		},
		judge: func() outcome {
			d.t.Helper()
			found := p.wantContainers(runtimeapi.ContainerState_CONTAINER_CREATED)
			if len(found) == 0 {
				d.settled("no container was made", before)
			}
			c := p.create(req.GetConfig()) // the retry
			if len(found) > 0 && found[0].GetId() != c.ID {
				d.t.Errorf("there was container %s, the retry made %s", found[0].GetId(), c.ID)
			}
			c.start()
			c.saidOnce()
			if got := c.Sh("cat /volume/file"); got != "from the volume\n" {
				d.t.Errorf("the image volume has %q", got)
			}
			c.Remove()
			d.settled("the container is removed", before)
			p.Remove()
			return doneIf(len(found) > 0)
		},
	}
}

// ranOnce checks that the command of a container was executed once, by what it left in a file.
func (c *ctr) ranOnce() {
	t := c.p.d.t
	t.Helper()
	eventually(t, "the container runs", func() bool {
		ran := c.Sh("cat /ran; true")
		if ran != "" && ran != "once\n" {
			t.Fatalf("the container was started more than once: %q", ran)
		}
		return ran != ""
	})
}

// saidOnce checks that a container of the name c runs for the first time.
func (c *ctr) saidOnce() {
	t := c.p.d.t
	t.Helper()
	log := filepath.Join(c.p.Config.GetLogDirectory(), "c.log")
	eventually(t, "the container says once", func() bool {
		data, err := os.ReadFile(log)
		if n := strings.Count(string(data), "once"); n > 1 {
			t.Fatalf("the container was started %d times", n)
		}
		return err == nil && strings.HasSuffix(string(data), "stdout F once\n")
	})
}

func startContainer(d *daemon) attempt {
	p := d.pod("start")
	c := p.create(client.Shell("c", "echo once >>/ran; echo once; sleep 1000"))
	return attempt{
		call: func(ctx context.Context) error {
			_, err := d.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ID})
			return err
		},
		judge: func() outcome {
			d.t.Helper()
			found := p.wantContainers(runtimeapi.ContainerState_CONTAINER_CREATED, runtimeapi.ContainerState_CONTAINER_RUNNING)
			if len(found) != 1 {
				d.t.Fatalf("%d containers are there", len(found))
			}
			created := found[0].GetState() == runtimeapi.ContainerState_CONTAINER_CREATED
			if created {
				c.start()
			}
			c.ranOnce()
			if !d.losesLines {
				c.saidOnce()
			}
			p.Remove()
			return doneIf(!created)
		},
	}
}

func stopContainer(d *daemon) attempt {
	p := d.pod("stop-container")
	c := p.start("c", "trap 'exit 7' TERM; echo once; while :; do usleep 1000; done")
	c.saidOnce() // it has set its trap
	req := &runtimeapi.StopContainerRequest{ContainerId: c.ID, Timeout: 10}
	return attempt{
		call: func(ctx context.Context) error {
			_, err := d.Runtime.StopContainer(ctx, req)
			return err
		},
		judge: func() outcome {
			d.t.Helper()
			found := p.wantContainers(runtimeapi.ContainerState_CONTAINER_RUNNING, runtimeapi.ContainerState_CONTAINER_EXITED)
			ended := len(found) == 1 && found[0].GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
			if _, err := d.Runtime.StopContainer(within(d.t), req); err != nil {
				d.t.Errorf("StopContainer: %v", err)
			}
			if st := c.Status(); st.GetExitCode() != 7 || st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
				d.t.Errorf("the container is %v with code %d, want 7", st.GetState(), st.GetExitCode())
			}
			p.Remove()
			return doneIf(ended)
		},
	}
}

func removeContainer(d *daemon) attempt {
	p := d.pod("remove-container")
	p.works() // the first container makes the pod's cgroup
	before := d.facts()
	c := p.start("c", "echo once > /in-the-upper-layer; sleep 1000")
	return attempt{
		call: func(ctx context.Context) error {
			_, err := d.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.ID})
			return err
		},
		judge: func() outcome {
			d.t.Helper()
			found := p.wantContainers(runtimeapi.ContainerState_CONTAINER_RUNNING, runtimeapi.ContainerState_CONTAINER_EXITED)
			if len(found) > 0 {
				c.Remove()
			}
			d.settled("the container is removed", before)
			p.Remove()
			return doneIf(len(found) == 0)
		},
	}
}

func pullImage(d *daemon) attempt {
	before := d.facts()
	return attempt{
		call: func(ctx context.Context) error {
			_, err := d.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: layered}})
			return err
		},
		judge: func() outcome {
			d.t.Helper()
			found := d.image(layered)
			if found == nil {
				d.settled("no image was pulled", before)
			}
			d.pull(layered)
			d.wholeImage()
			d.removeImage(layered)
			return doneIf(found != nil)
		},
	}
}

func removeImage(d *daemon) attempt {
	before := d.facts()
	d.pull(layered)
	return attempt{
		call: func(ctx context.Context) error {
			_, err := d.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: layered}})
			return err
		},
		judge: func() outcome {
			d.t.Helper()
			if d.image(layered) == nil {
				d.settled("the image is removed", before)
				return done
			}
			d.wholeImage()
			d.removeImage(layered)
			return undone
		},
	}
}

func (d *daemon) image(ref string) *runtimeapi.Image {
	d.t.Helper()
	r, err := d.Images.ImageStatus(within(d.t), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		d.t.Fatalf("ImageStatus: %v", err)
	}
	return r.GetImage()
}

// wholeImage checks that the layers of layered are on the disk with their files.
func (d *daemon) wholeImage() {
	d.t.Helper()
	for _, name := range []string{"0", "1", "2"} {
		found, _ := filepath.Glob(filepath.Join(d.Root, "layers", "[0-9a-f]*", "*", name))
		more, _ := filepath.Glob(filepath.Join(d.Root, "layers", "[0-9a-f]*", name))
		if len(found)+len(more) != 1 {
			d.t.Errorf("file %s of the image is there %d times", name, len(found)+len(more))
		}
	}
}

func (d *daemon) removeImage(ref string) {
	d.t.Helper()
	_, err := d.Images.RemoveImage(within(d.t), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		d.t.Errorf("RemoveImage: %v", err)
	}
}

func updateContainer(d *daemon) attempt {
	p := d.pod("update")
	c := p.start("c", "sleep 1000")
	call := func(ctx context.Context) error {
		_, err := d.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: c.ID, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 77},
		})
		return err
	}
	return attempt{
		call: call,
		judge: func() outcome {
			d.t.Helper()
			c.stillRuns()
			updated := c.Status().GetResources().GetLinux().GetCpuShares() == 77
			if err := call(within(d.t)); err != nil { // the retry
				d.t.Error(err)
			}
			if got := c.Status().GetResources().GetLinux().GetCpuShares(); got != 77 {
				d.t.Errorf("the container has %d CPU shares, want 77", got)
			}
			p.Remove()
			return doneIf(updated)
		},
	}
}

func execSync(d *daemon) attempt {
	p := d.pod("exec")
	c := p.start("c", "exec sleep 1000")
	eventually(d.t, "the shell has become sleep", func() bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.pid))
		return err == nil && string(line) == "sleep\x001000\x00"
	})
	before := d.facts()
	return attempt{
		call: func(ctx context.Context) error {
			_, err := d.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"echo", "said"}})
			return err
		},
		judge: func() outcome {
			d.t.Helper()
			c.stillRuns()
			d.settled("the exec has ended", before)
			if got := c.Sh("echo again"); got != "again\n" { // the retry
				d.t.Errorf("exec says %q", got)
			}
			p.Remove()
			return ended
		},
	}
}
