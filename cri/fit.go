package cri

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet takes messages of 16 MiB. A list above that is an error to it, and it
// then sees no pod, or collects no image: a few pods or images with long annotations
// would take the node away from everybody. So a list that grows beyond answerBytes
// gives every item the same share, and the items above it are shortened: see the
// functions shrink… for what they lose. A status and a streamed list have it all, but
// for the images' (listedImage).
const (
	answerBytes = 12 << 20
	// listedImage is what one image in a list takes at most. Manifests of 8 MiB are
	// accepted, and nobody who lists needs the annotations in them.
	listedImage = 64 << 10
	// toldImage is the same of ImageStatus, and of its verbose information.
	toldImage = 4 << 20
	// longestUser is where the name of an image's user is cut; no system has longer ones.
	longestUser = 256
)

// fit shortens a list that is too long for one message.
func fit[T proto.Message](list []T, shrink func(item T, room int)) []T {
	total := 0
	for _, item := range list {
		total += listed(item)
	}
	if total <= answerBytes {
		return list
	}
	share := answerBytes / len(list)
	for _, item := range list {
		if n := listed(item); n > share {
			shrink(item, share-(n-proto.Size(item)))
		}
	}
	return list
}

// listed is what an item takes in a list: itself, the field's number and the length.
func listed(item proto.Message) int { return proto.Size(item) + 8 }

// pairBytes is at least what the encoding adds to a key and its value.
const pairBytes = 16

// clip keeps the pairs that fit in room. Those of Kubernetes are kept first, by which
// the kubelet knows pods and containers again, then the shorter ones.
func clip(pairs map[string]string, room int) map[string]string {
	foreign := func(key string) int {
		if strings.HasPrefix(key, "io.kubernetes.") {
			return 0
		}
		return 1
	}
	keys := slices.SortedFunc(maps.Keys(pairs), func(a, b string) int {
		return cmp.Or(foreign(a)-foreign(b), len(a)+len(pairs[a])-len(b)-len(pairs[b]), cmp.Compare(a, b))
	})
	out := make(map[string]string)
	for _, k := range keys {
		if room -= len(k) + len(pairs[k]) + pairBytes; room < 0 {
			room += len(k) + len(pairs[k]) + pairBytes
			continue
		}
		out[k] = pairs[k]
	}
	return out
}

// clipNames keeps the first names that fit in room.
func clipNames(names []string, room int) []string {
	for i, n := range names {
		if room -= len(n) + pairBytes; room < 0 {
			return names[:i:i]
		}
	}
	return names
}

// shrinkPairs leaves out annotations, then labels, until the item fits in room. The
// maps are the item's own fields; they are replaced, not changed.
func shrinkPairs(item proto.Message, labels, annotations *map[string]string, room int) {
	l, a := *labels, *annotations
	*labels, *annotations = nil, nil
	room -= proto.Size(item)
	*labels = clip(l, room)
	for k, v := range *labels {
		room -= len(k) + len(v) + pairBytes
	}
	*annotations = clip(a, room)
}

func shrinkPod(p *runtimeapi.PodSandbox, room int) {
	shrinkPairs(p, &p.Labels, &p.Annotations, room)
}

func shrinkContainer(c *runtimeapi.Container, room int) {
	c.Image.Annotations = nil
	shrinkPairs(c, &c.Labels, &c.Annotations, room)
}

// shrinkStatus is of a container among the others of its pod, not of one asked for.
func shrinkStatus(c *runtimeapi.ContainerStatus, room int) {
	c.Image.Annotations = nil
	shrinkPairs(c, &c.Labels, &c.Annotations, room)
}

func shrinkStats(st *runtimeapi.ContainerStats, room int) {
	shrinkPairs(st, &st.Attributes.Labels, &st.Attributes.Annotations, room)
}

// shrinkPodStats gives what is left beside the numbers to the pod and its containers
// in equal parts.
func shrinkPodStats(st *runtimeapi.PodSandboxStats, room int) {
	containers := st.GetLinux().GetContainers()
	part := room / (1 + len(containers))
	for _, c := range containers {
		if listed(c) > part {
			shrinkStats(c, part-8)
		}
	}
	shrinkPairs(st, &st.Attributes.Labels, &st.Attributes.Annotations, room)
}

// shrinkMetrics leaves out the last series of the pod and of each container.
func shrinkMetrics(pm *runtimeapi.PodSandboxMetrics, room int) {
	size := proto.Size(pm)
	keep := func(list []*runtimeapi.Metric) []*runtimeapi.Metric { return list[:len(list)*max(room, 0)/size] }
	pm.Metrics = keep(pm.Metrics)
	for _, c := range pm.ContainerMetrics {
		c.Metrics = keep(c.Metrics)
	}
}

// shrinkImage leaves out the annotations, all or none, and then the last names.
func shrinkImage(img *runtimeapi.Image, room int) {
	if proto.Size(img) <= room {
		return
	}
	img.Spec.Annotations = nil
	if proto.Size(img) <= room {
		return
	}
	tags, digests := img.RepoTags, img.RepoDigests
	img.RepoTags, img.RepoDigests = nil, nil
	room -= proto.Size(img)
	img.RepoTags = clipNames(tags, room/2)
	for _, n := range img.RepoTags {
		room -= len(n) + pairBytes
	}
	img.RepoDigests = clipNames(digests, room)
}
