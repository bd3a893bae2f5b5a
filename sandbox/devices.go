package sandbox

import (
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

const (
	// DevicesAnnotation on a pod asks for devices of the host in each of its containers:
	// HOST[:CONTAINER][:ACCESS], with commas between, such as /dev/fuse or
	// /dev/fuse:/dev/fuse:rw. The operator lists those that may be asked for.
	DevicesAnnotation = "berth/devices"
	// crioDevicesAnnotation is CRI-O's name for the same.
	crioDevicesAnnotation = "io.kubernetes.cri-o.Devices"

	// maxAnnotatedDevices is more than any workload is known to need.
	maxAnnotatedDevices = 16
)

// podDevices are the devices that a pod's annotations ask for. Whoever may make pods writes
// them, so only those in allowed are given, the host's nodes by their exact paths.
func podDevices(cfg *runtimeapi.PodSandboxConfig, allowed []string) ([]*runtimeapi.Device, error) {
	var out []*runtimeapi.Device
	for _, name := range []string{DevicesAnnotation, crioDevicesAnnotation} {
		key := "annotation " + name
		text := cfg.GetAnnotations()[name]
		if strings.Count(text, ",") >= maxAnnotatedDevices {
			return nil, failed(ErrInvalid, "%s asks for more than %d devices", key, maxAnnotatedDevices)
		}
		for _, entry := range strings.Split(text, ",") {
			if entry == "" {
				continue
			}
			d, err := parseDevice(key, entry)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(allowed, d.GetHostPath()) {
				return nil, failed(ErrInvalid, "%s asks for the device %.100q, which allowed_devices in the node's configuration does not list", key, d.GetHostPath())
			}
			if slices.ContainsFunc(out, func(o *runtimeapi.Device) bool { return o.GetContainerPath() == d.GetContainerPath() }) {
				return nil, failed(ErrInvalid, "%s asks for two devices at %.100q", key, d.GetContainerPath())
			}
			out = append(out, d)
		}
	}
	return out, nil
}

// parseDevice reads one entry of an annotation, or of what key says.
func parseDevice(key, entry string) (*runtimeapi.Device, error) {
	parts := strings.SplitN(entry, ":", 4)
	d := &runtimeapi.Device{HostPath: parts[0], ContainerPath: parts[0], Permissions: "rwm"}
	rest := parts[1:]
	if len(rest) > 0 && strings.HasPrefix(rest[0], "/") {
		d.ContainerPath, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 {
		d.Permissions, rest = rest[0], rest[1:]
	}
	switch {
	case len(rest) > 0 || d.GetPermissions() == "":
		return nil, failed(ErrInvalid, "%s has %.100q; give HOST[:CONTAINER][:ACCESS] such as /dev/fuse:/dev/fuse:rw", key, entry)
	case !oci.IsOwnNode(d.GetContainerPath()):
		return nil, failed(ErrInvalid, "%s has the path %.100q in the container; give one below /dev that a container does not have anyway", key, d.GetContainerPath())
	}
	if err := oci.CheckDevice(d); err != nil {
		return nil, failed(ErrInvalid, "%s: %w", key, err)
	}
	return d, nil
}
