package sandbox

import (
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/sandbox/record"
)

func fact(s shimapi.Status, set ...func(*containerFact)) containerFact {
	f := containerFact{Record: shimapi.Record{Status: s}}
	for _, fn := range set {
		fn(&f)
	}
	return f
}

func lost(f *containerFact)           { f.lost = true }
func oom(f *containerFact)            { f.OOMKilled, f.ExitCode = true, 137 }
func code(n int) func(*containerFact) { return func(f *containerFact) { f.ExitCode = n } }
func reason(r, msg string) func(*containerFact) {
	return func(f *containerFact) { f.Reason, f.Message = r, msg }
}

func TestContainerState(t *testing.T) {
	const (
		created = runtimeapi.ContainerState_CONTAINER_CREATED
		running = runtimeapi.ContainerState_CONTAINER_RUNNING
		exited  = runtimeapi.ContainerState_CONTAINER_EXITED
		unknown = runtimeapi.ContainerState_CONTAINER_UNKNOWN
	)
	for _, tt := range []struct {
		name   string
		fact   containerFact
		state  runtimeapi.ContainerState
		code   int32
		reason string
	}{
		{"nothing known", fact(""), unknown, 0, ""},
		{"waits at the fifo", fact(shimapi.StatusCreated), created, 0, ""},
		{"runs", fact(shimapi.StatusRunning), running, 0, ""},
		{"ended well", fact(shimapi.StatusStopped), exited, 0, reasonCompleted},
		{"ended with an error", fact(shimapi.StatusStopped, code(3)), exited, 3, reasonError},
		{"killed for memory", fact(shimapi.StatusStopped, oom), exited, 137, reasonOOMKilled},
		{"never ran", fact(shimapi.StatusStopped, code(128), reason(shimapi.ReasonStartError, "no such file")), exited, 128, shimapi.ReasonStartError},
		{"lost while running", fact(shimapi.StatusRunning, lost), exited, shimapi.CodeUnknown, shimapi.ReasonUnknown},
		{"lost before it was known", fact("", lost), exited, shimapi.CodeUnknown, shimapi.ReasonUnknown},
		{"lost, but the exit was found after all", fact(shimapi.StatusStopped, lost, code(7)), exited, 7, reasonError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := containerState(tt.fact); got != tt.state {
				t.Errorf("state %v, want %v", got, tt.state)
			}
			if tt.state != exited {
				return
			}
			if c, r, _ := containerEnd(tt.fact); c != tt.code || r != tt.reason {
				t.Errorf("end %d %q, want %d %q", c, r, tt.code, tt.reason)
			}
		})
	}
}

func TestPodState(t *testing.T) {
	const ready, notReady = runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	for _, tt := range []struct {
		intent          record.Intent
		ended, stopping bool
		want            runtimeapi.PodSandboxState
	}{
		{record.Making, false, false, notReady},
		{record.Ready, false, false, ready},
		{record.Ready, true, false, notReady},
		{record.Ready, false, true, notReady},
		{record.Stopped, true, true, notReady},
	} {
		if got := podState(tt.intent, tt.ended, tt.stopping); got != tt.want {
			t.Errorf("podState(%s, ended %v, stopping %v) = %v, want %v", tt.intent, tt.ended, tt.stopping, got, tt.want)
		}
	}
}

func newTestContainer(t *testing.T) *Container {
	t.Helper()
	c := newContainer(&Sandbox{id: newID()}, "", containerRecord{
		Container: record.Container{ID: newID(), Intent: record.Ready, StopSignal: 15}, config: &runtimeapi.ContainerConfig{},
	})
	c.publish()
	return c
}

// A late or replayed event must never make an ended container run again.
func TestLearnNeverGoesBack(t *testing.T) {
	c := newTestContainer(t)
	end := time.Now()
	c.learn(shimapi.Record{Status: shimapi.StatusStopped, ExitCode: 4, FinishedAt: end})
	if c.learn(shimapi.Record{Status: shimapi.StatusRunning, PID: 12}) {
		t.Error("an older fact was taken in")
	}
	st := c.status.Load()
	if st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 4 || !st.FinishedAt.Equal(end) || st.PID != 0 {
		t.Errorf("status after the replay: %+v", st)
	}
	select {
	case <-c.done:
	default:
		t.Error("done is not closed")
	}
}

func TestLearnTwiceTellsOnce(t *testing.T) {
	c := newTestContainer(t)
	r := shimapi.Record{Status: shimapi.StatusStopped}
	if !c.learn(r) || c.learn(r) {
		t.Error("the same end must be told exactly once")
	}
}

func TestLoseKeepsARecordedExit(t *testing.T) {
	c := newTestContainer(t)
	c.learn(shimapi.Record{Status: shimapi.StatusStopped, ExitCode: 9})
	if c.markLost(time.Now()) {
		t.Error("an ended container was lost")
	}
	if st := c.status.Load(); st.ExitCode != 9 {
		t.Errorf("exit code %d, want 9", st.ExitCode)
	}
}

func TestHalfMadeIsNotListed(t *testing.T) {
	m := newIndex()
	s := newSandbox("", podRecord{Pod: record.Pod{ID: newID(), Intent: record.Making}, config: &runtimeapi.PodSandboxConfig{}})
	m.addPod(s)
	if got := m.Pods(); len(got) != 0 {
		t.Errorf("a half-made pod is listed: %+v", got[0])
	}
	if err := s.change(inMemory, func(rec *podRecord) { rec.Intent = record.Ready }); err != nil {
		t.Fatal(err)
	}
	if got := m.Pods(); len(got) != 1 || got[0].State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("a ready pod is not listed as such: %+v", got)
	}
}
