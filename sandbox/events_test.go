package sandbox

import (
	"slices"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// Whatever tells first of an end, the shim's event or the file that is read after
// a start, subscribers hear of each step once and in order.
func TestEventsOfALifeAreToldOnceInOrder(t *testing.T) {
	const (
		created = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
		started = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
		stopped = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	)
	now := time.Now()
	made := shimapi.Record{Status: shimapi.StatusCreated}
	runs := shimapi.Record{Status: shimapi.StatusRunning, StartedAt: now}
	ran := shimapi.Record{Status: shimapi.StatusStopped, StartedAt: now, FinishedAt: now}
	never := shimapi.Record{Status: shimapi.StatusStopped, FinishedAt: now}
	for name, tt := range map[string]struct {
		before, after []shimapi.Record // the commit
		want          []runtimeapi.ContainerEventType
	}{
		"usual":                     {[]shimapi.Record{made}, []shimapi.Record{runs, ran}, []runtimeapi.ContainerEventType{created, started, stopped}},
		"short":                     {[]shimapi.Record{made}, []shimapi.Record{ran, runs, ran}, []runtimeapi.ContainerEventType{created, started, stopped}},
		"killed before it ran":      {[]shimapi.Record{made}, []shimapi.Record{never}, []runtimeapi.ContainerEventType{created, stopped}},
		"killed while it was made":  {[]shimapi.Record{made, never}, nil, []runtimeapi.ContainerEventType{created, stopped}},
		"replay":                    {[]shimapi.Record{made}, []shimapi.Record{runs, made, runs, ran, ran}, []runtimeapi.ContainerEventType{created, started, stopped}},
		"made, and nothing is told": {[]shimapi.Record{made}, nil, []runtimeapi.ContainerEventType{created}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []runtimeapi.ContainerEventType
			c := newContainer(&Sandbox{id: newID()}, "", containerRecord{
				Container: record.Container{ID: newID(), Intent: record.Making}, config: &runtimeapi.ContainerConfig{},
			})
			c.publishEvent = func(e Event) { got = append(got, e.Type) }
			for _, r := range tt.before {
				c.learn(r)
			}
			if len(got) > 0 {
				t.Errorf("told of a half-made container: %v", got)
			}
			if err := c.change(inMemory, func(rec *containerRecord) { rec.Intent = record.Ready }); err != nil {
				t.Fatal(err)
			}
			for _, r := range tt.after {
				c.learn(r)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("told %v, want %v", got, tt.want)
			}
		})
	}
}

// A daemon that took a container over tells what happens from then on only.
func TestNothingIsToldOfThePast(t *testing.T) {
	var got []runtimeapi.ContainerEventType
	c := newContainer(&Sandbox{id: newID()}, "", containerRecord{
		Container: record.Container{ID: newID(), Intent: record.Ready}, config: &runtimeapi.ContainerConfig{},
	})
	c.learn(shimapi.Record{Status: shimapi.StatusRunning, StartedAt: time.Now()})
	c.publish()
	c.startEvents(func(e Event) { got = append(got, e.Type) })
	c.learn(shimapi.Record{Status: shimapi.StatusRunning, StartedAt: time.Now()})
	if len(got) > 0 {
		t.Errorf("told %v of the past", got)
	}
	c.learn(shimapi.Record{Status: shimapi.StatusStopped})
	if len(got) != 1 || got[0] != runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
		t.Errorf("told %v, want the end", got)
	}
}

// What could not be destroyed must be seen, or nobody removes it.
func TestHalfMadePodThatStaysIsShownNotReady(t *testing.T) {
	s := newSandbox("", podRecord{Pod: record.Pod{ID: newID(), Intent: record.Making}, config: &runtimeapi.PodSandboxConfig{}})
	s.show()
	if st := s.status.Load(); st == nil || st.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("status %+v", st)
	}
}
