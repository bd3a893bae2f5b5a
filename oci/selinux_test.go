package oci

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestLabels: what the options of pod and container, its privileges and its namespaces
// make of the policy's labels and the pod's level.
func TestLabels(t *testing.T) {
	const process, file = "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"
	for name, tt := range map[string]struct {
		change   func(in *specInput)
		pod, ctr Labels
	}{
		"own": {func(*specInput) {}, Labels{process, file}, Labels{process, file}},
		"no SELinux": {func(in *specInput) {
			in.host.SELinux, in.host.Labels = false, Labels{}
			in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Type: "x_t", Level: "s0:c5,c6"}
		}, Labels{}, Labels{}},
		"a policy without containers":        {func(in *specInput) { in.host.Labels = Labels{} }, Labels{}, Labels{}},
		"a pod that was made without labels": {func(in *specInput) { in.pod.Level = "" }, Labels{}, Labels{}},
		"the same with options": {func(in *specInput) {
			in.pod.Level = ""
			in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Type: "x_t"}
		}, Labels{}, Labels{"system_u:system_r:x_t:s0", "system_u:object_r:container_file_t:s0"}},
		"a privileged container": {func(in *specInput) { in.privileged(); in.podSecurity().Privileged = false },
			Labels{process, file}, Labels{"", file}},
		"a privileged pod": {func(in *specInput) { in.podSecurity().Privileged = true }, Labels{"", file}, Labels{process, file}},
		"host PID": {func(in *specInput) {
			in.podSecurity().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_NODE}
		}, Labels{"", file}, Labels{"", file}},
		"host IPC": {func(in *specInput) {
			in.podSecurity().NamespaceOptions = &runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_NODE}
		}, Labels{"", file}, Labels{"", file}},
		"host network": {func(in *specInput) {
			in.podSecurity().NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
		}, Labels{process, file}, Labels{process, file}},
		"privileged with a type": {func(in *specInput) {
			in.privileged()
			in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Type: "x_t"}
		}, Labels{"", file}, Labels{"system_u:system_r:x_t:s0:c1,c2", file}},
		"privileged with a level": {func(in *specInput) {
			in.privileged()
			in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c8,c9"}
		}, Labels{"", file}, Labels{"", "system_u:object_r:container_file_t:s0:c8,c9"}},
		"options of the pod": {func(in *specInput) {
			in.podSecurity().SelinuxOptions = &runtimeapi.SELinuxOption{User: "u", Role: "r", Type: "t"}
		}, Labels{"u:r:t:s0:c1,c2", "u:object_r:container_file_t:s0:c1,c2"}, Labels{"u:r:t:s0:c1,c2", "u:object_r:container_file_t:s0:c1,c2"}},
		"options of the container": {func(in *specInput) {
			in.podSecurity().SelinuxOptions = &runtimeapi.SELinuxOption{Type: "t"}
			in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c8,c9"}
		}, Labels{"system_u:system_r:t:s0:c1,c2", file}, Labels{"system_u:system_r:container_t:s0:c8,c9", "system_u:object_r:container_file_t:s0:c8,c9"}},
	} {
		in := baseInput()
		in.selinux("s0:c1,c2")
		tt.change(in)
		pod, err := PodLabels(in.pod.Config, in.pod.Level, in.host)
		if err != nil || pod != tt.pod {
			t.Errorf("%s: the pod has %+v, %v, want %+v", name, pod, err, tt.pod)
		}
		ctr, err := ContainerLabels(in.pod, in.ctr.Config, in.host)
		if err != nil || ctr != tt.ctr {
			t.Errorf("%s: the container has %+v, %v, want %+v", name, ctr, err, tt.ctr)
		}
	}
}

func TestLabelsOfFiles(t *testing.T) {
	l := Labels{Process: "u:r:container_t:s0:c1,c2", File: "u:object_r:f_t:s0:c1,c2"}
	if l.Level() != "s0:c1,c2" || l.Shared() != "u:object_r:f_t:s0" || !l.Confined() {
		t.Errorf("%q, %q, confined %t", l.Level(), l.Shared(), l.Confined())
	}
	if (Labels{}).Confined() || (Labels{Process: "u:r:spc_t:s0"}).Confined() {
		t.Error("a process without a label, or of spc_t, counts as confined")
	}
}
