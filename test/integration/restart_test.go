package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// resubscribe opens the event stream of the daemon of the moment.
func (s *suite) resubscribe(t *testing.T) {
	t.Helper()
	s.events.stop()
	e, err := subscribe(s.Runtime)
	if err != nil {
		t.Fatal(err)
	}
	s.events = e
}

// The daemon is killed while 20 pods run and started again: they never notice.
func TestKilledDaemonAdoptsItsPods(t *testing.T) {
	s := own(t, node.Options{})
	const count = 20
	pods := make([]*pod, count)
	counters := make([]*ctr, count)
	ips := map[string]string{}
	for i := range pods {
		pods[i] = s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = fmt.Sprintf("pod-%d", i) })
		counters[i] = pods[i].start("counter", client.Counter)
		ips[pods[i].ID] = pods[i].Status().GetNetwork().GetIp()
	}
	if len(slices.Compact(slices.Sorted(mapValues(ips)))) != count {
		t.Fatalf("%d pods do not have as many addresses: %v", count, ips)
	}
	pid := counters[0].hostPID()
	// These end while nobody is there.
	ends := pods[0].start("ends", "sleep 0.5; echo last words; exit 3")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // the container ends meanwhile; there is no daemon to tell
	began := time.Now()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	if took > client.Bound(time.Second) {
		t.Errorf("ready after %v, want under a second", took)
	}
	s.resubscribe(t)
	for i, p := range pods {
		if st := p.Status(); st.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || st.GetNetwork().GetIp() != ips[p.ID] {
			t.Errorf("pod %d: %v, IP %s, was %s", i, st.GetState(), st.GetNetwork().GetIp(), ips[p.ID])
		}
		if st := counters[i].Status(); st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("container %d: %v %s", i, st.GetState(), st.GetMessage())
		}
		if got := counters[i].Sh("echo $$-works"); !strings.HasSuffix(got, "-works\n") {
			t.Errorf("exec in container %d: %q", i, got)
		}
	}
	if now := counters[0].hostPID(); now != pid {
		t.Errorf("process %d became %d", pid, now)
	}
	if st := ends.Status(); st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 3 || st.GetReason() != "Error" {
		t.Errorf("what ended meanwhile: %v %d %s", st.GetState(), st.GetExitCode(), st.GetReason())
	}
	if got := output(readLog(t, ends.LogFile()), "stdout"); got != "last words\n" {
		t.Errorf("its log: %q", got)
	}
	noGaps(t, counters)
	// All verbs still work on what was adopted, and new pods run beside.
	counters[1].Stop(0)
	if st := counters[1].Ended(); st.GetExitCode() != 137 {
		t.Errorf("stopped after the restart: %d", st.GetExitCode())
	}
	if got := pods[2].start("new", "sleep 100").Sh("echo new"); got != "new\n" {
		t.Error(got)
	}
	s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "new" }).start("new", "sleep 100").Sh("true")
	t.Logf("%d pods adopted in %v", count, took)
}

func mapValues(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// noGaps stops the counters and checks that their logs count without a gap.
func noGaps(t *testing.T, counters []*ctr) {
	t.Helper()
	for i, c := range counters {
		lines := readLog(t, c.LogFile())
		for n, l := range lines {
			if l.Text != fmt.Sprint(n) {
				t.Errorf("line %d of container %d is %q", n, i, l.Text)
				break
			}
		}
		if len(lines) < 10 {
			t.Errorf("container %d has logged %d lines", i, len(lines))
		}
	}
}

// Stopping the daemon as systemd would leaves containers alone, too.
func TestStoppedDaemonLeavesItsPods(t *testing.T) {
	s := own(t, node.Options{})
	c := s.pod(t).start("c", "sleep 1000")
	pid := c.hostPID()
	for range 3 {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.resubscribe(t)
	if c.hostPID() != pid || c.Status().GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %v", c.Status())
	}
}

// What a pod and a container are is the same after a restart.
func TestStatusSurvivesARestart(t *testing.T) {
	s := own(t, node.Options{})
	p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Annotations = map[string]string{"k": "v"}
		c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80}}
	})
	running := p.start("running", "sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b")}}
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
	})
	ended := p.start("ended", "exit 9")
	ended.Ended()
	created, err := p.create(client.Shell("created", "exit 4"))
	if err != nil {
		t.Fatal(err)
	}
	look := func() []string {
		out := []string{p.Status().String(), running.Status().String(), ended.Status().String(), p.ctr(created).Status().String()}
		r, err := s.Runtime.ListContainers(within(t), &runtimeapi.ListContainersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.GetContainers() {
			out = append(out, c.String())
		}
		return out
	}
	before := look()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.resubscribe(t)
	if diff := cmp.Diff(before, look()); diff != "" {
		t.Error(diff)
	}
	late := p.ctr(created)
	if err := late.TryStart(); err != nil {
		t.Errorf("start of what was created before: %v", err)
	} else if st := late.Ended(); st.GetExitCode() != 4 {
		t.Errorf("it ended with %d", st.GetExitCode())
	}
}

// Images are there after a restart, whole.
func TestImagesSurviveARestart(t *testing.T) {
	s := own(t, node.Options{})
	id := s.pull(t, busybox)
	before := s.imageStatus(t, busybox).String()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.resubscribe(t)
	if after := s.imageStatus(t, id).String(); after != before {
		t.Error(cmp.Diff(before, after))
	}
	fetched := images.Blobs()
	if got := s.pod(t).start("c", "sleep 100").Sh("echo runs"); got != "runs\n" {
		t.Error(got)
	}
	if n := images.Blobs() - fetched; n != 0 {
		t.Errorf("%d blobs were fetched again", n)
	}
}
