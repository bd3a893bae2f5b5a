package sandbox

import (
	"encoding/json"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

// describe fills in what a status echoes of the spec a container runs with.
func (r *containerRecord) describe(st *ContainerStatus) {
	st.StopSignal = oci.SignalOf(r.StopSignal)
	st.Mounts = r.mounts()
	st.Unenforced, st.UpdateAnnotations = r.Unenforced, r.UpdateAnnotations
	if r.described != nil { // else it has no spec yet
		st.Resources, st.User = r.described.resources, r.described.user
	}
}

// mounts are those of the config. Of an image volume they say what was mounted: the ID
// of the image, which is the digest of its configuration and what PullImage returned
// (KEP-5365; critest compares the two), and that it is read-only.
func (r *containerRecord) mounts() []*runtimeapi.Mount {
	all := r.config.GetMounts()
	if len(r.Volumes) == 0 {
		return all
	}
	all = slices.Clone(all)
	next := 0
	for i, mt := range all {
		if mt.GetImage().GetImage() == "" || next == len(r.Volumes) {
			continue
		}
		mt = proto.Clone(mt).(*runtimeapi.Mount)
		mt.Readonly, mt.Image.ImageRef = true, r.Volumes[next].ImageID
		all[i] = mt
		next++
	}
	return all
}

// specFacts are read from a spec once, as it changes only with its record.
type specFacts struct {
	resources *runtimeapi.ContainerResources
	user      *runtimeapi.ContainerUser
}

// describedSpec is the part of a spec that statuses repeat. To decode all of it would take most
// of the time that reading a record takes.
type describedSpec struct {
	Process *struct {
		User        specs.User `json:"user"`
		OOMScoreAdj *int       `json:"oomScoreAdj"`
	} `json:"process"`
	Linux struct {
		Resources *specs.LinuxResources `json:"resources"`
	} `json:"linux"`
}

func describeSpec(raw json.RawMessage) *specFacts {
	var spec describedSpec
	if len(raw) == 0 || json.Unmarshal(raw, &spec) != nil || spec.Process == nil {
		return &specFacts{}
	}
	u := spec.Process.User
	user := &runtimeapi.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.AdditionalGids {
		user.SupplementalGroups = append(user.SupplementalGroups, int64(g))
	}
	return &specFacts{
		resources: oci.ContainerResources(&specs.Spec{
			Process: &specs.Process{OOMScoreAdj: spec.Process.OOMScoreAdj}, Linux: &specs.Linux{Resources: spec.Linux.Resources},
		}),
		user: &runtimeapi.ContainerUser{Linux: user},
	}
}
