package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkContainerConfig looks at the form of a container's configuration: that what the
// domain goes by is there and that nothing of it is long without end. What it asks for
// is judged by the domain.
func checkContainerConfig(c *runtimeapi.ContainerConfig) error {
	if c == nil {
		return invalid("config is missing; give the container's configuration")
	}
	if c.GetMetadata().GetName() == "" {
		return invalid("config.metadata.name is empty; give the container's name")
	}
	if c.GetImage().GetImage() == "" {
		return invalid("config.image.image is empty; give the image's ID or name")
	}
	err := firstError(
		checkName("config.metadata.name", c.GetMetadata().GetName()),
		checkImageName(c.GetImage()),
		checkPairs("config.labels", c.GetLabels()),
		checkPairs("config.annotations", c.GetAnnotations()),
	)
	if err != nil {
		return err
	}
	for _, m := range c.GetMounts() {
		if err := checkImageName(m.GetImage()); err != nil {
			return err
		}
	}
	return nil
}

func checkImageName(spec *runtimeapi.ImageSpec) error {
	if len(spec.GetImage()) > maxName {
		return invalid("image is %d bytes long; a reference has at most %d", len(spec.GetImage()), maxName)
	}
	for _, s := range []string{spec.GetUserSpecifiedImage(), spec.GetRuntimeHandler(), spec.GetImageRef()} {
		if len(s) > maxName {
			return invalid("image: user_specified_image, runtime_handler or image_ref is %d bytes long; use at most %d", len(s), maxName)
		}
	}
	return checkPairs("image.annotations", spec.GetAnnotations())
}

// imageName is the reference a request is about.
func imageName(spec *runtimeapi.ImageSpec) (string, error) {
	if spec.GetImage() == "" {
		return "", invalid("image.image is empty; give a name, a digest or an ID")
	}
	return spec.GetImage(), checkImageName(spec)
}
