package sandbox

import (
	"encoding/json"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

// describe fills in what a status echoes of the spec a container runs with.
func (r *containerRecord) describe(st *ContainerStatus) {
	st.StopSignal = oci.SignalOf(r.StopSignal)
	st.Mounts = r.config.GetMounts()
	if r.described == nil {
		r.described = describeSpec(r.Spec)
	}
	st.Resources, st.User = r.described.resources, r.described.user
}

// specFacts are read from a spec once, as it changes only with its record.
type specFacts struct {
	resources *runtimeapi.ContainerResources
	user      *runtimeapi.ContainerUser
}

func describeSpec(raw json.RawMessage) *specFacts {
	var spec specs.Spec
	if len(raw) == 0 || json.Unmarshal(raw, &spec) != nil || spec.Process == nil {
		return &specFacts{}
	}
	u := spec.Process.User
	user := &runtimeapi.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.AdditionalGids {
		user.SupplementalGroups = append(user.SupplementalGroups, int64(g))
	}
	return &specFacts{
		resources: oci.ContainerResources(&spec),
		user:      &runtimeapi.ContainerUser{Linux: user},
	}
}
