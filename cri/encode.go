package cri

import (
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// nanos is a time as the CRI writes it: 0 for "not yet".
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func encodePod(p *sandbox.PodStatus) *runtimeapi.PodSandbox {
	return &runtimeapi.PodSandbox{
		Id:             p.ID,
		Metadata:       p.Config.GetMetadata(),
		State:          p.State,
		CreatedAt:      nanos(p.CreatedAt),
		Labels:         p.Config.GetLabels(),
		Annotations:    p.Config.GetAnnotations(),
		RuntimeHandler: p.Handler,
	}
}

func encodePodStatus(p *sandbox.PodStatus) *runtimeapi.PodSandboxStatus {
	return &runtimeapi.PodSandboxStatus{
		Id:        p.ID,
		Metadata:  p.Config.GetMetadata(),
		State:     p.State,
		CreatedAt: nanos(p.CreatedAt),
		Network:   encodeIPs(p.IPs),
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{
			Options: p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
		Labels:         p.Config.GetLabels(),
		Annotations:    p.Config.GetAnnotations(),
		RuntimeHandler: p.Handler,
	}
}

func encodeIPs(ips []string) *runtimeapi.PodSandboxNetworkStatus {
	n := &runtimeapi.PodSandboxNetworkStatus{}
	for i, ip := range ips {
		if i == 0 {
			n.Ip = ip
			continue
		}
		n.AdditionalIps = append(n.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return n
}

func (s *Server) encodeContainer(c *sandbox.ContainerStatus) *runtimeapi.Container {
	return &runtimeapi.Container{
		Id:           c.ID,
		PodSandboxId: c.PodID,
		Metadata:     c.Config.GetMetadata(),
		Image:        s.encodeImageSpec(c),
		ImageRef:     s.registryName(c.ImageRef),
		ImageId:      c.ImageID,
		State:        c.State,
		CreatedAt:    nanos(c.CreatedAt),
		Labels:       c.Config.GetLabels(),
		Annotations:  c.Config.GetAnnotations(),
	}
}

func (s *Server) encodeContainerStatuses(list []*sandbox.ContainerStatus) []*runtimeapi.ContainerStatus {
	out := make([]*runtimeapi.ContainerStatus, 0, len(list))
	for _, c := range list {
		out = append(out, s.encodeContainerStatus(c))
	}
	return fit(out, shrinkStatus)
}

func (s *Server) encodeContainerStatus(c *sandbox.ContainerStatus) *runtimeapi.ContainerStatus {
	return &runtimeapi.ContainerStatus{
		Id:          c.ID,
		Metadata:    c.Config.GetMetadata(),
		State:       c.State,
		CreatedAt:   nanos(c.CreatedAt),
		StartedAt:   nanos(c.StartedAt),
		FinishedAt:  nanos(c.FinishedAt),
		ExitCode:    c.ExitCode,
		Image:       s.encodeImageSpec(c),
		ImageRef:    s.registryName(c.ImageRef),
		ImageId:     c.ImageID,
		Reason:      c.Reason,
		Message:     strings.ToValidUTF8(c.Message, "\uFFFD"), // may quote what a program printed
		Labels:      c.Config.GetLabels(),
		Annotations: c.Config.GetAnnotations(),
		Mounts:      c.Mounts,
		LogPath:     c.LogPath,
		Resources:   c.Resources,
		User:        c.User,
		StopSignal:  c.StopSignal,
	}
}

// registryName is what image_ref says, from which the kubelet takes the imageID of a
// pod's status: the digest in a registry. A container knows that of its image from
// its creation. Where it knows the ID only (the image was loaded or built then, or an
// older daemon made the container) the image may have a digest now; else the ID stays.
func (s *Server) registryName(ref string) string {
	if !strings.HasPrefix(ref, "sha256:") {
		return ref
	}
	if img, err := s.opt.Images.Get(ref); err == nil && len(img.Digests) > 0 {
		return img.Digests[0]
	}
	return ref
}

// encodeImageSpec names the image as a person would: what the user wrote, else
// a tag. The kubelet creates containers by image ID, which tells nobody anything.
//
// It says no runtime_handler, whatever the container was created with: with the feature gate
// RuntimeClassInImageCriApi the kubelet removes images of which no container has the same ID
// and handler, and a list of images has each of them once, without a handler (KEP-4216).
func (s *Server) encodeImageSpec(c *sandbox.ContainerStatus) *runtimeapi.ImageSpec {
	in := c.Config.GetImage()
	return &runtimeapi.ImageSpec{
		Image:              s.displayName(c),
		Annotations:        in.GetAnnotations(),
		UserSpecifiedImage: in.GetUserSpecifiedImage(),
		ImageRef:           in.GetImageRef(),
	}
}

func (s *Server) displayName(c *sandbox.ContainerStatus) string {
	return s.imageName(c.Config.GetImage(), c.ImageID)
}

// imageName names the image of an ID that a container was asked for by in.
func (s *Server) imageName(in *runtimeapi.ImageSpec, id string) string {
	if in.GetUserSpecifiedImage() != "" {
		return in.GetUserSpecifiedImage()
	}
	if !strings.HasPrefix(id, in.GetImage()) && !strings.HasPrefix(strings.TrimPrefix(id, "sha256:"), in.GetImage()) {
		return in.GetImage()
	}
	img, err := s.opt.Images.Get(id)
	if err != nil || len(img.Tags) == 0 {
		return in.GetImage()
	}
	return img.Tags[0]
}
