package server

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cni"
	"berth/sandbox"
	"berth/server/config"
)

func TestNetworkRequest(t *testing.T) {
	pod := sandbox.PodNetwork{PodID: "id", NetNS: "/run/ns", Config: &runtimeapi.PodSandboxConfig{
		Metadata:    &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "prod", Uid: "u"},
		Annotations: map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "a": "b"},
		DnsConfig:   &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10"}, Searches: []string{"svc"}, Options: []string{"ndots:5"}},
		PortMappings: []*runtimeapi.PortMapping{
			{Protocol: runtimeapi.Protocol_UDP, ContainerPort: 53, HostPort: 5353, HostIp: "127.0.0.1"},
		},
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/kubepods/pod1"},
	}}
	got, err := networkRequest(pod)
	if err != nil {
		t.Fatal(err)
	}
	if got.Bandwidth == nil || got.Bandwidth.IngressRate != 10e6 {
		t.Errorf("bandwidth %+v", got.Bandwidth)
	}
	got.Bandwidth = nil
	want := cni.Request{
		PodID: "id", NetNS: "/run/ns", Name: "web", Namespace: "prod", UID: "u",
		Annotations:  map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "a": "b"},
		DNS:          &cni.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"svc"}, Options: []string{"ndots:5"}},
		PortMappings: []cni.PortMapping{{Protocol: "UDP", ContainerPort: 53, HostPort: 5353, HostIP: "127.0.0.1"}},
		CgroupParent: "/kubepods/pod1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNetworkRequestOfABadAnnotation(t *testing.T) {
	_, err := networkRequest(sandbox.PodNetwork{Config: &runtimeapi.PodSandboxConfig{
		Annotations: map[string]string{"kubernetes.io/egress-bandwidth": "fast"},
	}})
	if !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
}

func TestNetworkRequestOfAnEmptyPod(t *testing.T) {
	if _, err := networkRequest(sandbox.PodNetwork{PodID: "id"}); err != nil {
		t.Error(err)
	}
}

// TestPinned: images of sandbox containers are kept as those are that the configuration names.
func TestPinned(t *testing.T) {
	cfg := config.Config{PinnedImages: []string{"x"}, Runtimes: map[string]config.Runtime{
		"b": {SandboxImage: "pause:2"}, "a": {SandboxImage: "pause:1"}, "c": {},
	}}
	if diff := cmp.Diff([]string{"x", "pause:1", "pause:2"}, pinned(cfg)); diff != "" {
		t.Error(diff)
	}
	if len(cfg.PinnedImages) != 1 {
		t.Errorf("the configuration became %q", cfg.PinnedImages)
	}
}
