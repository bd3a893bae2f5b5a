package nri

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// life is what plugins are told of a pod "life" with a container that is updated and
// stopped, and one that ends by itself.
var life = []string{
	"RunPodSandbox life",
	"UpdatePodSandbox[0,50000] life", "PostUpdatePodSandbox life",
	"CreateContainer life/a", "PostCreateContainer life/a", "StartContainer life/a", "PostStartContainer life/a",
	"UpdateContainer life/a", "PostUpdateContainer life/a",
	"StopContainer life/a", "RemoveContainer life/a",
	"CreateContainer life/b", "PostCreateContainer life/b", "StartContainer life/b", "PostStartContainer life/b",
	"StopContainer life/b",
	"CreateContainer life/c", "PostCreateContainer life/c",
	"StopContainer life/c", "StopPodSandbox life",
	"RemoveContainer life/x", "RemoveContainer life/x", "RemovePodSandbox life",
}

// live leads a pod through its life, with repeated and overlapping calls.
func live(t *testing.T, r *runtime, p *plugin) {
	t.Helper()
	pod := r.kit(t).Run(r.kit(t).PodConfig("life"))
	half := &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000}
	_, err := r.Runtime.UpdatePodSandboxResources(within(t), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod.ID, Resources: half})
	if err != nil {
		t.Error(err)
	}
	a := pod.Start(client.Shell("a", "exec sleep 1000"))
	if _, err := r.Runtime.UpdateContainerResources(within(t), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: a.ID, Linux: half}); err != nil {
		t.Error(err)
	}
	together(4, func() { a.Stop(time.Minute) }, func() { a.Stop(0) })
	a.Stop(0)
	removals := 2
	if r.node == nil { // containerd refuses a removal while another goes on
		removals = 1
	}
	together(removals, a.Remove)
	a.Remove()
	pod.Start(client.Shell("b", "exit 3"))
	p.await(t, "StopContainer life/b") // it was told of the end, though nobody asked for it
	pod.Create(client.Shell("c", "exit 0"))
	together(3, pod.Stop)
	pod.Stop()
	together(removals, pod.Remove)
	pod.Remove()
}

// together does each of the things n times at once.
func together(n int, do ...func()) {
	var all sync.WaitGroup
	for range n {
		for _, f := range do {
			all.Go(f)
		}
	}
	all.Wait()
}

// anyOrder hides which container comes first where that is nobody's promise.
func anyOrder(told []string) []string {
	out := slices.Clone(told)
	for i, what := range out[max(0, len(out)-4):] {
		if name, ok := strings.CutPrefix(what, "RemoveContainer "); ok {
			pod, _, _ := strings.Cut(name, "/")
			out[max(0, len(out)-4)+i] = "RemoveContainer " + pod + "/x"
		}
	}
	return out
}

// Every step is told once and in order, with overlapping stops and repeated calls.
func TestEachStepOnce(t *testing.T) {
	p := connect(t, shared.socket, "10-logger", nil)
	live(t, shared, p)
	if diff := cmp.Diff(life, anyOrder(p.of("life"))); diff != "" {
		t.Error(diff)
	}
}

// A container that ends at once is told to have ended after it was told to have started.
func TestStopAfterPostStart(t *testing.T) {
	p := connect(t, shared.socket, "10-slow", func(p *plugin) {
		p.before = func(step, _ string) error {
			if step == "PostStartContainer" {
				time.Sleep(200 * time.Millisecond) // a slow plugin is what is tested
			}
			return nil
		}
	})
	pod := shared.pod(t, "quick")
	pod.Start(client.Shell("a", "exit 0"))
	p.await(t, "StopContainer quick/a")
	want := []string{"RunPodSandbox quick", "CreateContainer quick/a", "PostCreateContainer quick/a", "StartContainer quick/a", "PostStartContainer quick/a", "StopContainer quick/a"}
	if diff := cmp.Diff(want, p.of("quick")); diff != "" {
		t.Error(diff)
	}
}

// What a plugin refuses fails with its words and its name, leaves nothing, and can be tried
// again.
func TestRefusals(t *testing.T) {
	for step, told := range map[string][]string{
		"RunPodSandbox":   {"StopPodSandbox", "RemovePodSandbox"},
		"CreateContainer": {"StopContainer", "RemoveContainer"},
		"StartContainer":  {"StopContainer"},
	} {
		t.Run(step, func(t *testing.T) {
			var once sync.Once
			p := connect(t, shared.socket, "10-refuser", func(p *plugin) {
				p.before = func(s, _ string) (err error) {
					if s == step {
						once.Do(func() { err = errors.New("not today") })
					}
					return err
				}
			})
			refused(t, step, p)
			p.mu.Lock()
			defer p.mu.Unlock()
			at := slices.IndexFunc(p.told, func(s string) bool { return strings.HasPrefix(s, step+" ") })
			for i, want := range told {
				if got, _, _ := strings.Cut(p.told[at+1+i], " "); got != want {
					t.Errorf("after the refusal it was told %q, want %q next", p.told[at+1:], want)
				}
			}
		})
	}
}

// refused meets a refusal at a step, and then does what was refused.
func refused(t *testing.T, step string, p *plugin) {
	t.Helper()
	wantRefusal := func(err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "not today") || !strings.Contains(err.Error(), p.name) {
			t.Errorf("the error is %v; it should name the plugin and say what it says", err)
		}
	}
	k := shared.kit(t)
	config := k.PodConfig("refused-" + strings.ToLower(step))
	if step == "RunPodSandbox" {
		_, err := shared.RunPod(within(t), config)
		wantRefusal(err)
		if left := k.Find(config); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
	pod := k.Run(config)
	defer pod.End()
	if step == "CreateContainer" {
		_, err := pod.TryCreate(client.Shell("a", "exec sleep 1000"))
		wantRefusal(err)
		if left := pod.Containers(); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
	c := pod.Create(client.Shell("a", "exec sleep 1000"))
	if step == "StartContainer" {
		wantRefusal(c.TryStart())
		if st := c.Status(); st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
			t.Errorf("the container is %v", st.GetState())
		}
		c.Remove()
		c = pod.Create(client.Shell("a", "exec sleep 1000"))
	}
	if err := c.TryStart(); err != nil {
		t.Error(err)
	}
}

// A daemon that is killed and started again gives plugins that connect anew the list of
// what runs, and tells no end twice: not of what was stopped before, nor of what ended
// while there was no daemon.
func TestRestart(t *testing.T) {
	r := own(t)
	first := connect(t, r.socket, "10-first", nil)
	pod := r.kit(t).Run(r.kit(t).PodConfig("again"))
	stopped := pod.Start(client.Shell("stopped", "exec sleep 1000"))
	runs := pod.Start(client.Shell("runs", "exec sleep 1000"))
	ends := pod.Start(client.Shell("ends", "exec sleep 1000"))
	stopped.Stop(0)
	victim := first.seen(ends.ID).GetPid()
	if err := r.node.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(victim), syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	<-first.closed
	if err := r.node.Restart(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := r.Redial(); err != nil {
		t.Fatal(err)
	}
	second := connect(t, r.socket, "10-second", nil)
	second.await(t, "Synchronize 10-second")
	want := []string{pod.ID, runs.ID}
	slices.Sort(want)
	second.mu.Lock()
	slices.Sort(second.synced)
	if diff := cmp.Diff(want, second.synced); diff != "" {
		t.Error("synchronised with something else: ", diff)
	}
	second.mu.Unlock()
	stopped.Remove()
	ends.Remove()
	pod.Stop()
	pod.Remove()
	told := []string{
		"RemoveContainer again/stopped", "StopContainer again/ends", "RemoveContainer again/ends",
		"StopContainer again/runs", "StopPodSandbox again", "RemoveContainer again/runs", "RemovePodSandbox again",
	}
	if diff := cmp.Diff(told, second.of("again")); diff != "" {
		t.Error(diff)
	}
}
