package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox/record"
)

// indexed makes an index of pods and containers that are whole, each a second younger
// than the one before.
func indexed(t *testing.T, pods, containers int) *index {
	t.Helper()
	ix, at := newIndex(), time.Unix(1000, 0)
	for p := range pods {
		at = at.Add(time.Second)
		s := newSandbox("", podRecord{
			Pod:    record.Pod{ID: fmt.Sprintf("pod%03d", p), Intent: record.Ready, CreatedAt: at},
			config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: fmt.Sprint("p", p)}},
		})
		ix.addPod(s)
		for c := range containers {
			at = at.Add(time.Second)
			ctr := newContainer(s, "", containerRecord{
				Container: record.Container{ID: fmt.Sprintf("ctr%03d-%03d", p, c), Intent: record.Ready, CreatedAt: at},
				config:    &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: fmt.Sprint("c", c)}},
			})
			ctr.publish()
			ix.addContainer(ctr)
		}
	}
	return ix
}

func TestIndexFindsByIDNameAndPod(t *testing.T) {
	ix := indexed(t, 3, 4)
	if got := ix.Pods(); len(got) != 3 || got[0].ID != "pod002" || got[2].ID != "pod000" {
		t.Errorf("pods are not listed newest first: %v", got)
	}
	if got := ix.Containers(); len(got) != 12 || got[0].ID != "ctr002-003" {
		t.Errorf("%d containers, the first is %s", len(got), got[0].ID)
	}
	var ids []string
	for _, c := range ix.ContainersOf("pod001") {
		ids = append(ids, c.ID)
	}
	if strings.Join(ids, " ") != "ctr001-003 ctr001-002 ctr001-001 ctr001-000" {
		t.Errorf("containers of pod001: %v", ids)
	}
	if got := ix.ContainersOf("unknown"); len(got) > 0 {
		t.Errorf("containers of an unknown pod: %v", got)
	}
	named := ix.containersNamed(containerName{pod: "pod001", name: "c2"})
	if len(named) != 1 || named[0].id != "ctr001-002" {
		t.Errorf("containers named c2 of pod001: %v", named)
	}
	if got := ix.podsNamed(podName{name: "p1"}); len(got) != 1 || got[0].id != "pod001" {
		t.Errorf("pods named p1: %v", got)
	}
	if got := ix.podsNamed(podName{name: "p1", attempt: 1}); len(got) > 0 {
		t.Errorf("another attempt is another name: %v", got)
	}
	if c, err := ix.Container("ctr001-00"); err == nil {
		t.Errorf("an ambiguous prefix finds %s", c.ID)
	}
	if p, err := ix.Pod("pod002"); err != nil || p.ID != "pod002" {
		t.Errorf("pod002: %+v, %v", p, err)
	}
	all := ix.PodIDs()
	slices.Sort(all)
	if !slices.Equal(all, []string{"pod000", "pod001", "pod002"}) {
		t.Errorf("IDs %v", all)
	}
}

func TestIndexForgets(t *testing.T) {
	ix := indexed(t, 2, 2)
	ix.forgetContainer("ctr000-001")
	ix.forgetContainer("unknown")
	ix.forgetPod("pod001")
	ix.forgetPod("unknown")
	if got := ix.ContainersOf("pod000"); len(got) != 1 || got[0].ID != "ctr000-000" {
		t.Errorf("containers of pod000: %v", got)
	}
	if len(ix.podsNamed(podName{name: "p1"})) > 0 || ix.podByID("pod001") != nil || ix.containerByID("ctr000-001") != nil {
		t.Error("what was forgotten is still found")
	}
}

// Half-made ones are found by verbs and told to nobody.
func TestIndexHidesHalfMade(t *testing.T) {
	ix := newIndex()
	s := newSandbox("", podRecord{Pod: record.Pod{ID: "p", Intent: record.Making}, config: &runtimeapi.PodSandboxConfig{}})
	c := newContainer(s, "", containerRecord{Container: record.Container{ID: "c", Intent: record.Making}, config: &runtimeapi.ContainerConfig{}})
	ix.addPod(s)
	ix.addContainer(c)
	if len(ix.Pods())+len(ix.Containers())+len(ix.ContainersOf("p")) > 0 {
		t.Error("half-made ones are listed")
	}
	if got, err := ix.container("c"); got != c || err != nil {
		t.Errorf("a verb finds %v, %v", got, err)
	}
	_, err := ix.Pod("p")
	wantError(t, "status of a half-made pod", err, ErrNotFound)
	_, err = ix.Container("c")
	wantError(t, "status of a half-made container", err, ErrNotFound)
}

func TestIndexFromManyGoroutines(t *testing.T) {
	ix := indexed(t, 1, 0)
	pod := ix.podByID("pod000")
	var wait sync.WaitGroup
	for g := range 8 {
		wait.Go(func() {
			for i := range 100 {
				id := fmt.Sprintf("%d-%d", g, i)
				ix.addContainer(newContainer(pod, "", containerRecord{Container: record.Container{ID: id}, config: &runtimeapi.ContainerConfig{}}))
				_ = ix.ContainersOf("pod000")
				ix.forgetContainer(id)
			}
		})
	}
	wait.Wait()
	if len(ix.containers)+len(ix.containerOf)+len(ix.named) > 0 {
		t.Errorf("left: %+v", ix)
	}
}

// A list of all pods' containers must not cost pods times containers.
func BenchmarkContainersOf(b *testing.B) {
	ix := indexed(&testing.T{}, 200, 5)
	for b.Loop() {
		for _, p := range ix.Pods() {
			_ = ix.ContainersOf(p.ID)
		}
	}
}
