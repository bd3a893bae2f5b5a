package nri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/ttrpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// lifeOf leads a pod with a container through its life, and returns how long that took.
func lifeOf(t *testing.T, r *runtime, name string, change ...func(*runtimeapi.PodSandboxConfig)) time.Duration {
	t.Helper()
	config := r.kit(t).PodConfig(name)
	for _, f := range change {
		f(config)
	}
	r.kit(t).Have(client.Busybox)
	began := time.Now()
	pod := r.kit(t).Run(config)
	defer pod.End()
	c := pod.Start(client.Shell("a", "exec sleep 1000"))
	c.Stop(0)
	c.Remove()
	pod.Stop()
	pod.Remove()
	return time.Since(began)
}

// wantLog wants the daemon's log to have a line with these words.
func wantLog(t *testing.T, r *runtime, words ...string) {
	t.Helper()
	if !logged(t, r, words...) {
		t.Errorf("no line of the log has %q", words)
	}
}

func logged(t *testing.T, r *runtime, words ...string) bool {
	t.Helper()
	data, err := os.ReadFile(r.node.LogFile)
	if err != nil {
		t.Fatal(err)
	}
lines:
	for line := range strings.Lines(string(data)) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		return true
	}
	return false
}

// slowLife is more than a pod's life takes on a machine that is busy.
var slowLife = client.Bound(20 * time.Second)

// requestTime is the default time that a plugin has for an answer.
const requestTime = 2 * time.Second

// A plugin that hangs holds up a pod for the time of one request; then it is cut off, and
// the log names it.
func TestAttackPluginHangs(t *testing.T) {
	for _, step := range []string{"RunPodSandbox", "CreateContainer", "PostCreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			r := own(t)
			hang, released := context.WithCancel(t.Context())
			defer released()
			p := connect(t, r.socket, "66-hanger", func(p *plugin) {
				p.before = func(s, _ string) error {
					if s == step {
						<-hang.Done()
					}
					return nil
				}
			})
			if took := lifeOf(t, r, "hung"); took < requestTime || took > requestTime+slowLife {
				t.Errorf("the pod's life took %v", took)
			}
			<-p.closed
			wantLog(t, r, "66-hanger", step)
			if took := lifeOf(t, r, "after"); took > slowLife {
				t.Errorf("the next pod's life took %v", took)
			}
		})
	}
}

// deafConn stops to read when deaf is set, as a process does that is stopped.
type deafConn struct {
	net.Conn
	deaf atomic.Bool
	gone chan struct{}
	once sync.Once
}

func (c *deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.deaf.Load() {
		<-c.gone
		return 0, errors.New("gone")
	}
	return n, err
}

func (c *deafConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// A plugin that does not read its socket fills it: then a request can't even be written.
// That must not hold up the library for good, also not when the plugin has asked to be kept
// when it is late.
func TestAttackPluginDoesNotRead(t *testing.T) {
	r := own(t)
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	deaf := &deafConn{Conn: conn, gone: make(chan struct{})}
	defer deaf.Close()
	p := newPlugin("66-deaf", func(p *plugin) { p.policy = &api.FailurePolicy{KeepConnected: true} })
	p.conn = deaf
	if err := p.start(r.socket); err != nil {
		t.Fatal(err)
	}
	p.await(t, "Synchronize 66-deaf")
	deaf.deaf.Store(true)
	large := func(c *runtimeapi.PodSandboxConfig) {
		c.Annotations = map[string]string{"large": strings.Repeat("x", 200<<10)}
	}
	began := time.Now()
	for range 2 { // of several steps each, which the plugin is kept for while they fit into the socket
		lifeOf(t, r, "unread", large)
	}
	if took := time.Since(began); took > client.Bound(60*time.Second) {
		t.Errorf("it took %v", took)
	}
	wantLog(t, r, "66-deaf", "does not read its socket")
	if took := lifeOf(t, r, "after", large); took > slowLife {
		t.Errorf("the next pod's life took %v", took)
	}
}

// A plugin that dies as it is asked is gone, and the pod goes on.
func TestAttackPluginDies(t *testing.T) {
	for _, step := range []string{"Synchronize", "RunPodSandbox", "CreateContainer", "StopContainer"} {
		t.Run(step, func(t *testing.T) {
			conn, err := net.Dial("unix", shared.socket)
			if err != nil {
				t.Fatal(err)
			}
			p := newPlugin("66-mortal", func(p *plugin) {
				p.before = func(s, _ string) error {
					if s == step {
						conn.Close()
					}
					return nil
				}
			})
			p.conn = conn
			if err := p.start(shared.socket); err != nil && step != "Synchronize" {
				t.Fatal(err)
			}
			if took := lifeOf(t, shared, "bereaved"); took > slowLife {
				t.Errorf("the pod's life took %v", took)
			}
		})
	}
}

// Plugins that never register, or hang in their synchronisation, let pods go on, and so
// does a connection that sends garbage.
func TestAttackPluginNeverRegisters(t *testing.T) {
	r := own(t, "--nri-timeouts", "register=3s")
	var open []net.Conn
	for range 4 {
		conn, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	_, _ = open[1].Write([]byte(strings.Repeat("garbage", 1000)))
	if took := lifeOf(t, r, "unregistered"); took > slowLife {
		t.Errorf("the pod's life took %v", took)
	}
	client.Eventually(t, "the first plugin's time to register ends", func() bool { return logged(t, r, "registration timed out") })
	for _, c := range open {
		c.Close()
	}
	p := newPlugin("66-sleeper", func(p *plugin) {
		p.before = func(s, _ string) error {
			if s == "Synchronize" {
				<-t.Context().Done()
			}
			return nil
		}
	})
	go func() { _ = p.start(r.socket) }() // it returns when the plugin is cut off
	p.await(t, "Synchronize 66-sleeper")
	if took := lifeOf(t, r, "synchronising"); took > requestTime+slowLife {
		t.Errorf("the pod's life took %v", took)
	}
	<-p.closed
	connect(t, r.socket, "10-good", nil).await(t, "Synchronize 10-good")
}

// A plugin that floods the daemon with calls gets answers to a few of them at a time, and
// pods go on.
func TestAttackPluginFloods(t *testing.T) {
	r := own(t)
	p := connect(t, r.socket, "66-flooder", nil)
	var answered, refused atomic.Int64
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := p.stub.UpdateContainers([]*api.ContainerUpdate{shares("none", 100)}); err != nil && strings.Contains(err.Error(), "wait for their answers") {
					refused.Add(1)
				} else {
					answered.Add(1)
				}
			}
		})
	}
	took := lifeOf(t, r, "flooded")
	close(stop)
	all.Wait()
	if took > slowLife {
		t.Errorf("the pod's life took %v", took)
	}
	if refused.Load() == 0 || answered.Load() == 0 {
		t.Errorf("%d calls were answered, %d refused", answered.Load(), refused.Load())
	}
	p.await(t, "RemovePodSandbox flooded") // it was not cut off for it
}

// A plugin that only sends, and reads no answers, does not fill the daemon's memory: it is
// cut off.
func TestAttackPluginFloodsWithoutReading(t *testing.T) {
	r := own(t)
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	deaf := &deafConn{Conn: conn, gone: make(chan struct{})}
	defer deaf.Close()
	p := newPlugin("66-flooder", nil)
	p.conn = deaf
	if err := p.start(r.socket); err != nil {
		t.Fatal(err)
	}
	p.await(t, "Synchronize 66-flooder")
	before := memory(t, r.node.PID())
	deaf.deaf.Store(true)
	update := shares(strings.Repeat("x", 64<<10), 100)
	cut := make(chan struct{})
	var once sync.Once
	for range 2000 {
		go func() { // waits for an answer that never comes, and ends with the connection
			if _, err := p.stub.UpdateContainers([]*api.ContainerUpdate{update}); errors.Is(err, ttrpc.ErrClosed) {
				once.Do(func() { close(cut) })
			}
		}()
	}
	select {
	case <-cut:
	case <-time.After(client.Patience):
		t.Error("the plugin was not cut off")
	}
	if grown := memory(t, r.node.PID()) - before; grown > 200<<20 {
		t.Errorf("the daemon has %d MiB more", grown>>20)
	}
	if took := lifeOf(t, r, "after"); took > slowLife {
		t.Errorf("the next pod's life took %v", took)
	}
}

// A plugin that lies about what it wants makes calls fail, with an error, and nothing else.
func TestAttackPluginLies(t *testing.T) {
	lies := map[string]*api.ContainerAdjustment{
		"empty":      {Linux: &api.LinuxContainerAdjustment{Rdt: &api.LinuxRdt{}, Resources: &api.LinuxResources{}}, Hooks: &api.Hooks{}},
		"markers":    {Annotations: map[string]string{"-": "", "": ""}, Env: []*api.KeyValue{{Key: "-"}, {Key: ""}}, Mounts: []*api.Mount{{Destination: "-"}, {}}},
		"nonsense":   {Linux: &api.LinuxContainerAdjustment{CgroupsPath: "../../..", Namespaces: []*api.LinuxNamespace{{Type: "-"}}}},
		"numbers":    {Linux: &api.LinuxContainerAdjustment{Resources: &api.LinuxResources{Cpu: &api.LinuxCPU{Quota: api.Int64(int64(-5)), Cpus: "x"}, Pids: &api.LinuxPids{Limit: -99}}}},
		"missing":    {Mounts: []*api.Mount{{Destination: "/x", Source: "/no/such/thing", Type: "bind", Options: []string{"bind"}}}},
		"escape":     {Mounts: []*api.Mount{{Destination: "../../../etc", Source: "/etc", Type: "bind", Options: []string{"bind"}}}},
		"scheduler":  {Linux: &api.LinuxContainerAdjustment{Scheduler: &api.LinuxScheduler{Policy: 99}, IoPriority: &api.LinuxIOPriority{Class: 99}}},
		"seccomp":    {Linux: &api.LinuxContainerAdjustment{SeccompPolicy: &api.LinuxSeccomp{DefaultAction: "SCMP_ACT_NONSENSE"}}},
		"net device": {Linux: &api.LinuxContainerAdjustment{NetDevices: map[string]*api.LinuxNetDevice{"nonsense0": {Name: "x"}}}},
		"args":       {Args: []string{""}},
		"huge":       {Annotations: map[string]string{"k": strings.Repeat("x", 3<<20)}},
	}
	var now atomic.Value
	p := connect(t, shared.socket, "66-liar", func(p *plugin) {
		p.adjust = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			bad := &api.ContainerUpdate{ContainerId: "\x00../x", Linux: &api.LinuxContainerUpdate{Resources: &api.LinuxResources{Memory: &api.LinuxMemory{Limit: api.Int64(int64(-7))}}}}
			return lies[now.Load().(string)], []*api.ContainerUpdate{bad, {}}, nil
		}
	})
	for name := range lies {
		t.Run(name, func(t *testing.T) {
			now.Store(name)
			pod := shared.pod(t, "lied-to")
			c, err := pod.TryCreate(client.Shell("a", "exit 0"))
			if err == nil {
				err = c.TryStart()
			}
			t.Logf("%v", err) // whether it can be done is the kernel's business
		})
	}
	if _, err := p.stub.UpdateContainers([]*api.ContainerUpdate{{}, {ContainerId: "x", Linux: &api.LinuxContainerUpdate{}}}); err == nil {
		t.Error("updates of nothing succeed")
	}
	p.mu.Lock()
	alive := len(p.told) > 0
	p.mu.Unlock()
	if took := lifeOf(t, shared, "truth", func(*runtimeapi.PodSandboxConfig) { now.Store("empty") }); took > slowLife || !alive {
		t.Errorf("the pod's life took %v", took)
	}
}

// A hook that a plugin injects and that hangs, or leaves a process with its output, ends
// with its time; one that fails when the container is gone keeps nothing from going.
func TestAttackPluginHooks(t *testing.T) {
	hook := func(script string) []*api.Hook {
		return []*api.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"}, Timeout: api.Int(1)}}
	}
	var now atomic.Value
	connect(t, shared.socket, "66-hooker", func(p *plugin) {
		p.adjust = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			return &api.ContainerAdjustment{Hooks: now.Load().(*api.Hooks)}, nil, nil
		}
	})
	for name, h := range map[string]struct {
		hooks *api.Hooks
		fails string // of the start; "" for none
	}{
		"poststop fails":        {&api.Hooks{Poststop: hook("echo no; exit 1")}, ""},
		"poststop hangs":        {&api.Hooks{Poststop: hook("exec sleep 1000")}, ""},
		"poststart fails":       {&api.Hooks{Poststart: hook("echo why not; exit 1")}, "why not"},
		"poststart hangs":       {&api.Hooks{Poststart: hook("exec sleep 1000")}, "did not end within 1s"},
		"poststart leaves some": {&api.Hooks{Poststart: []*api.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 5 & exit 0"}}}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			now.Store(h.hooks)
			pod := shared.pod(t, "hooked")
			c := pod.Create(client.Shell("a", "exec sleep 1000"))
			err := c.TryStart()
			if h.fails == "" && err != nil || h.fails != "" && (err == nil || !strings.Contains(err.Error(), h.fails)) {
				t.Errorf("start: %v", err)
			}
			if err != nil {
				if st := c.Ended(); st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
					t.Errorf("the container is %v", st.GetState())
				}
			}
			began := time.Now()
			c.Stop(0)
			c.Remove()
			if took := time.Since(began); took > client.Bound(15*time.Second) {
				t.Errorf("the end took %v", took)
			}
		})
	}
}

// memory is the resident memory of a process in bytes.
func memory(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}
