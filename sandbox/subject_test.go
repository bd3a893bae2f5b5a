package sandbox

import (
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// One who sees the cgroup of a half-made pod or container asks for it at once.
func TestSubjectsAreKnownBeforeTheyAreWhole(t *testing.T) {
	ix := newIndex()
	cfg := podConfig("a")
	cfg.Linux.CgroupParent = "/kubepods/pod1"
	cfg.Labels = map[string]string{"io.kubernetes.pod.name": "a"}
	s := newSandbox("", podRecord{Pod: record.Pod{ID: "p", Intent: record.Making, CreatedAt: time.Unix(5, 0)}, config: cfg})
	c := newContainer(s, "", containerRecord{Container: record.Container{ID: "c", Intent: record.Making, ImageID: "sha256:1"}, config: containerConfig("b")})
	ix.addPod(s)
	ix.addContainer(c)
	for host, want := range map[bool]string{false: "/kubepods/pod1/p", true: ""} { // true: the parent is no slice
		v := &subjects{index: ix, host: oci.Host{SystemdCgroup: host}}
		pod, err := v.Subject("p")
		if err != nil || !pod.IsSandbox() || pod.PID != 0 || pod.Labels["io.kubernetes.pod.name"] != "a" || pod.CgroupsPath != want || !pod.CreatedAt.Equal(time.Unix(5, 0)) {
			t.Errorf("the pod is %+v, %v", pod, err)
		}
	}
	v := &subjects{index: ix}
	ctr, err := v.Subject("c")
	if err != nil || ctr.IsSandbox() || ctr.PodID != "p" || ctr.PID != 0 || ctr.ImageID != "sha256:1" || ctr.Image.GetImage() != "busybox" || ctr.CgroupsPath != "/kubepods/pod1/c" {
		t.Errorf("the container is %+v, %v", ctr, err)
	}
	_, err = v.Subject("")
	wantError(t, "no ID", err, ErrNotFound)
}

func TestSubjectsOfALife(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.create(pod, "b")
	look := func(id string) *Subject {
		t.Helper()
		s, err := n.m.Subject(id)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := look(pod); s.PID == 0 || s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the pod is %+v", s)
	}
	if s := look(id); s.PID == 0 || s.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Errorf("the container is %+v", s)
	}
	if _, err := n.m.Subject(id[:12]); err == nil {
		t.Error("a part of an ID is enough")
	}
	c := n.m.index.containerByID(id)
	c.learn(shimapi.Record{ID: id, Pod: pod, Status: shimapi.StatusStopped, PID: 7, ExitCode: 3, FinishedAt: time.Unix(9, 0)})
	if s := look(id); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 3 || !s.FinishedAt.Equal(time.Unix(9, 0)) {
		t.Errorf("the ended container is %+v", s)
	}
	if err := n.m.StopPod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if s := look(pod); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("the stopped pod is %+v", s)
	}
}
