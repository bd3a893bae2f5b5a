package cri

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/image"
	"berth/sandbox"
)

// Three images with annotations as long as a manifest may be, thousands of names and
// a user's name of megabytes try to make ListImages larger than the kubelet takes,
// which would end the collection of images.
func TestAttackImageListLargerThanAMessage(t *testing.T) {
	f := newFake()
	huge := map[string]string{"a": strings.Repeat("x", 7<<20)}
	f.rawConfig = []byte(`"` + strings.Repeat("<", 6<<20) + `"`)
	f.images = []*image.Image{{ID: "sha256:honest", Tags: []string{"docker.io/library/busybox:1"}, Annotations: map[string]string{"k": "v"}}}
	for i := range 3 {
		img := &image.Image{ID: fmt.Sprintf("sha256:evil%d", i), Annotations: huge}
		img.Config.User = strings.Repeat("ü", 3<<20)
		for n := range 50_000 {
			img.Tags = append(img.Tags, fmt.Sprintf("registry.test/some/name:%d", n))
			img.Digests = append(img.Digests, fmt.Sprintf("registry.test/some/name%d@sha256:%064d", n, n))
		}
		f.images = append(f.images, img)
	}
	// And honest ones in numbers.
	for i := range 5000 {
		f.images = append(f.images, &image.Image{ID: fmt.Sprintf("sha256:%064d", i), Tags: []string{strings.Repeat("t", 4<<10)}})
	}
	_, conn := serve(t, options(f))
	client := runtimeapi.NewImageServiceClient(conn)
	list, err := client.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != len(f.images) || proto.Size(list) > answerBytes {
		t.Fatalf("%d images in %d bytes, %v", len(list.GetImages()), proto.Size(list), err)
	}
	if img := list.GetImages()[0]; img.GetSpec().GetAnnotations()["k"] != "v" || len(img.GetRepoTags()) != 1 {
		t.Errorf("the honest image: %v", img)
	}
	for _, img := range list.GetImages()[1:4] {
		if proto.Size(img) > listedImage || len(img.GetRepoTags()) == 0 || len(img.GetRepoDigests()) == 0 || img.GetUsername() == "" || img.GetSize() == 0 {
			t.Errorf("%s in %d bytes with %d tags, %d digests, user %q", img.GetId(), proto.Size(img), len(img.GetRepoTags()), len(img.GetRepoDigests()), img.GetUsername())
		}
	}
	st, err := client.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "sha256:evil1"}, Verbose: true})
	if err != nil || proto.Size(st) > answerBytes || !strings.Contains(st.GetInfo()["info"], "left out") {
		t.Errorf("verbose status of %d bytes, %v", proto.Size(st), err)
	}
	f.images[0].Annotations = map[string]string{"a": strings.Repeat("x", 1<<20)}
	st, err = client.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "sha256:honest"}})
	if err != nil || len(st.GetImage().GetSpec().GetAnnotations()["a"]) != 1<<20 {
		t.Errorf("annotations of one image asked for: %d bytes, %v", proto.Size(st), err)
	}
}

// A hundred pods with as many annotations and labels as a pod may have try to make the
// lists of pods, containers and statistics larger than the kubelet takes, which would
// end its view of the node.
func TestAttackPodListsLargerThanAMessage(t *testing.T) {
	f := newFake()
	long := func(own map[string]string) map[string]string {
		out := maps.Clone(own)
		out["long"] = strings.Repeat("x", 200<<10)
		for i := range 1000 {
			out[fmt.Sprintf("tenant.test/%d", i)] = strings.Repeat("y", 60)
		}
		return out
	}
	labels := long(map[string]string{"io.kubernetes.pod.name": "evil"})
	annotations := long(map[string]string{"io.kubernetes.container.hash": "3b1", "io.kubernetes.container.preStopHandler": strings.Repeat("z", 100<<10)})
	short := map[string]string{"app": "x"}
	for i := range 100 {
		p := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p"}, Labels: labels, Annotations: annotations}
		c := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "busybox", Annotations: annotations}, Labels: labels, Annotations: annotations}
		if i == 0 {
			p.Labels, p.Annotations, c.Labels, c.Annotations = short, short, short, short
		}
		f.pods = append(f.pods, &sandbox.PodStatus{ID: fmt.Sprintf("%064d", i), Config: p})
		f.containers = append(f.containers, &sandbox.ContainerStatus{ID: fmt.Sprintf("%064d", i), PodID: fmt.Sprintf("%064d", i), Config: c, State: runtimeapi.ContainerState_CONTAINER_RUNNING})
	}
	s, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	check := func(what string, resp proto.Message, n int, err error) {
		t.Helper()
		if err != nil || n != 100 || proto.Size(resp) > answerBytes {
			t.Fatalf("%s: %d items in %d bytes, %v", what, n, proto.Size(resp), err)
		}
	}
	pairs := func(what string, i int, labels, annotations map[string]string) {
		t.Helper()
		whole := i == 0 && maps.Equal(labels, short) && maps.Equal(annotations, short)
		if !whole && (labels["io.kubernetes.pod.name"] != "evil" || annotations["io.kubernetes.container.hash"] != "3b1") {
			t.Errorf("%s %d lost what names it: %d labels, %d annotations", what, i, len(labels), len(annotations))
		}
	}
	pods, err := client.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	check("pods", pods, len(pods.GetItems()), err)
	ctrs, err := client.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
	check("containers", ctrs, len(ctrs.GetContainers()), err)
	stats, err := client.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{})
	check("container statistics", stats, len(stats.GetStats()), err)
	podStats, err := client.ListPodSandboxStats(t.Context(), &runtimeapi.ListPodSandboxStatsRequest{})
	check("pod statistics", podStats, len(podStats.GetStats()), err)
	for i := range 100 {
		pairs("pod", i, pods.GetItems()[i].GetLabels(), pods.GetItems()[i].GetAnnotations())
		pairs("container", i, ctrs.GetContainers()[i].GetLabels(), ctrs.GetContainers()[i].GetAnnotations())
		pairs("statistics of container", i, stats.GetStats()[i].GetAttributes().GetLabels(), stats.GetStats()[i].GetAttributes().GetAnnotations())
		if a := podStats.GetStats()[i].GetAttributes(); i > 0 && a.GetLabels()["io.kubernetes.pod.name"] != "evil" {
			t.Errorf("statistics of pod %d lost what names it", i)
		}
	}
	one, err := client.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: f.pods[5].ID})
	if err != nil || !maps.Equal(one.GetStatus().GetAnnotations(), annotations) || !maps.Equal(one.GetStatus().GetLabels(), labels) {
		t.Errorf("the status of one pod is not whole: %d bytes, %v", proto.Size(one), err)
	}
	if got := s.listPods(nil)[7]; !maps.Equal(got.GetAnnotations(), annotations) {
		t.Error("a list changed the pod's own annotations")
	}
}

// A container's request with megabytes in the fields of its image that are only told
// again tries to make every later list of containers long.
func TestAttackImageFieldsAreBounded(t *testing.T) {
	for _, spec := range []*runtimeapi.ImageSpec{
		{Image: "busybox", UserSpecifiedImage: strings.Repeat("x", 1<<20)},
		{Image: "busybox", ImageRef: strings.Repeat("x", 1<<20)},
		{Image: "busybox", RuntimeHandler: strings.Repeat("x", 1<<20)},
		{Image: "busybox", Annotations: map[string]string{"a": strings.Repeat("x", 1<<20)}},
	} {
		c := containerConfig("c")
		c.Image = spec
		if checkContainerConfig(c) == nil {
			t.Errorf("accepted as the image: %.100v", spec)
		}
		c = containerConfig("c")
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", Image: spec}}
		if checkContainerConfig(c) == nil {
			t.Errorf("accepted as a volume: %.100v", spec)
		}
	}
}

func TestMetricsFitAMessage(t *testing.T) {
	var list []*runtimeapi.PodSandboxMetrics
	for range 200 {
		pm := &runtimeapi.PodSandboxMetrics{PodSandboxId: "p"}
		for range 100 {
			m := &runtimeapi.Metric{Name: strings.Repeat("n", 1000)}
			pm.Metrics = append(pm.Metrics, m)
			pm.ContainerMetrics = append(pm.ContainerMetrics, &runtimeapi.ContainerMetrics{Metrics: []*runtimeapi.Metric{m, m}})
		}
		list = append(list, pm)
	}
	resp := &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: fit(list, shrinkMetrics)}
	if n := proto.Size(resp); n > answerBytes || n < answerBytes/4 || len(resp.GetPodMetrics()) != 200 {
		t.Errorf("%d bytes", n)
	}
}
