package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// pod is a running pod sandbox of a test.
type pod struct {
	s      *suite
	t      *testing.T
	ID     string
	Config *runtimeapi.PodSandboxConfig
}

// podConfig is a pod's configuration named after the test.
func (s *suite) podConfig(t *testing.T) *runtimeapi.PodSandboxConfig {
	t.Helper()
	logs, err := os.MkdirTemp(s.LogDir, "pod-")
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ReplaceAll(t.Name(), "/", "-")
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "test", Uid: filepath.Base(logs)},
		LogDirectory: logs,
		Labels:       map[string]string{"test": name},
		Linux:        &runtimeapi.LinuxPodSandboxConfig{},
	}
}

// pod runs a pod that ends with the test.
func (s *suite) pod(t *testing.T, change ...func(*runtimeapi.PodSandboxConfig)) *pod {
	t.Helper()
	c := s.podConfig(t)
	for _, f := range change {
		f(c)
	}
	r, err := s.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: c})
	if err != nil {
		t.Fatalf("RunPodSandbox: %v", err)
	}
	p := &pod{s: s, t: t, ID: r.GetPodSandboxId(), Config: c}
	t.Cleanup(p.remove)
	return p
}

// in gives the pod to a subtest.
func (p *pod) in(t *testing.T) *pod {
	q := *p
	q.t = t
	return &q
}

func (p *pod) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := p.s.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		p.t.Errorf("StopPodSandbox: %v", err)
	}
	if _, err := p.s.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		p.t.Errorf("RemovePodSandbox: %v", err)
	}
}

func (p *pod) status() *runtimeapi.PodSandboxStatus {
	p.t.Helper()
	r, err := p.s.Runtime.PodSandboxStatus(within(p.t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.ID})
	if err != nil {
		p.t.Fatalf("PodSandboxStatus: %v", err)
	}
	return r.GetStatus()
}

// pull makes an image present and returns its reference.
func (s *suite) pull(t *testing.T, ref string) string {
	t.Helper()
	spec := &runtimeapi.ImageSpec{Image: ref}
	st, err := s.Images.ImageStatus(within(t), &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		t.Fatalf("ImageStatus %s: %v", ref, err)
	}
	if st.GetImage() != nil {
		return st.GetImage().GetId()
	}
	r, err := s.Images.PullImage(within(t), &runtimeapi.PullImageRequest{Image: spec})
	if err != nil {
		t.Fatalf("PullImage %s: %v", ref, err)
	}
	return r.GetImageRef()
}

// ctr is a container of a test's pod.
type ctr struct {
	p  *pod
	ID string
}

// config is a container that runs a shell command of busybox.
func (p *pod) config(name, script string, change ...func(*runtimeapi.ContainerConfig)) *runtimeapi.ContainerConfig {
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: busybox},
		Command:  []string{"sh", "-c", script},
		LogPath:  name + ".log",
		Linux:    &runtimeapi.LinuxContainerConfig{},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func (p *pod) create(c *runtimeapi.ContainerConfig) (string, error) {
	p.t.Helper()
	p.s.pull(p.t, c.GetImage().GetImage())
	r, err := p.s.Runtime.CreateContainer(within(p.t), &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.ID, Config: c, SandboxConfig: p.Config,
	})
	return r.GetContainerId(), err
}

// start creates and starts a container; it goes with its pod.
func (p *pod) start(name, script string, change ...func(*runtimeapi.ContainerConfig)) *ctr {
	p.t.Helper()
	id, err := p.create(p.config(name, script, change...))
	if err != nil {
		p.t.Fatalf("CreateContainer %s: %v", name, err)
	}
	c := &ctr{p: p, ID: id}
	if err := c.startErr(); err != nil {
		p.t.Fatalf("StartContainer %s: %v", name, err)
	}
	return c
}

func (c *ctr) startErr() error {
	_, err := c.p.s.Runtime.StartContainer(within(c.p.t), &runtimeapi.StartContainerRequest{ContainerId: c.ID})
	return err
}

func (c *ctr) status() *runtimeapi.ContainerStatus {
	c.p.t.Helper()
	r, err := c.p.s.Runtime.ContainerStatus(within(c.p.t), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID})
	if err != nil {
		c.p.t.Fatalf("ContainerStatus: %v", err)
	}
	return r.GetStatus()
}

// ended waits until the container has ended and returns how.
func (c *ctr) ended() *runtimeapi.ContainerStatus {
	c.p.t.Helper()
	event := c.p.s.events.of(c.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	deadline := time.After(patience)
	for {
		select {
		case <-event:
			return c.status()
		case <-deadline:
			c.p.t.Fatalf("the container did not end within %v: %v", patience, c.status())
		case <-time.After(2 * time.Second): // an event that is missing must not hide the rest
			if st := c.status(); st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
				select {
				case <-event:
				default:
					c.p.t.Errorf("no CONTAINER_STOPPED_EVENT was sent for %s", c.ID)
				}
				return st
			}
		}
	}
}

func (c *ctr) stop(grace time.Duration) {
	c.p.t.Helper()
	_, err := c.p.s.Runtime.StopContainer(within(c.p.t), &runtimeapi.StopContainerRequest{
		ContainerId: c.ID, Timeout: int64(grace / time.Second),
	})
	if err != nil {
		c.p.t.Errorf("StopContainer: %v", err)
	}
}

// exec runs a shell command in the container; it must succeed.
func (c *ctr) exec(script string) string {
	c.p.t.Helper()
	r, err := c.p.s.Runtime.ExecSync(within(c.p.t), &runtimeapi.ExecSyncRequest{
		ContainerId: c.ID, Cmd: []string{"sh", "-c", script}, Timeout: 10,
	})
	if err != nil {
		c.p.t.Fatalf("ExecSync %q: %v", script, err)
	}
	if r.GetExitCode() != 0 {
		c.p.t.Fatalf("%q ended with %d: %s%s", script, r.GetExitCode(), r.GetStdout(), r.GetStderr())
	}
	return string(r.GetStdout())
}

// logLine is a line of a CRI log.
type logLine struct {
	At     time.Time
	Stream string
	Full   bool
	Text   string
}

func (c *ctr) logFile() string { return c.status().GetLogPath() }

func readLog(t *testing.T, file string) []logLine {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []logLine
	for line := range strings.Lines(string(data)) {
		l, err := parseLine(line)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out = append(out, l)
	}
	return out
}

// parseLine reads "2016-10-06T00:17:09.669794202Z stdout P text\n".
func parseLine(line string) (logLine, error) {
	if !strings.HasSuffix(line, "\n") {
		return logLine{}, fmt.Errorf("a line without its end: %q", line)
	}
	f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
	if len(f) != 4 {
		return logLine{}, fmt.Errorf("not a CRI log line: %q", line)
	}
	at, err := time.Parse(time.RFC3339Nano, f[0])
	if err != nil {
		return logLine{}, err
	}
	if f[1] != "stdout" && f[1] != "stderr" || f[2] != "F" && f[2] != "P" {
		return logLine{}, fmt.Errorf("bad stream or tag: %q", line)
	}
	return logLine{At: at, Stream: f[1], Full: f[2] == "F", Text: f[3]}, nil
}

// output is what the log has of a stream, put together again.
func output(lines []logLine, stream string) string {
	var b strings.Builder
	for _, l := range lines {
		if l.Stream == stream {
			b.WriteString(l.Text)
			if l.Full {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v, want code %v", what, err, want)
	}
}
