package image

import (
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/registry"
)

const (
	// maxServed is how many bytes an image's command, environment, volumes and similar
	// fields may have together. The kernel refuses to execute a program with an argument
	// of more than 128 KiB (MAX_ARG_STRLEN).
	maxServed = 256 << 10
	// maxAnnotations is how many bytes the annotations of a manifest may have. Every
	// ListImages answer contains the annotations of all images.
	maxAnnotations = 16 << 10
	// maxUser is how many bytes a user's name may have; it is in these answers too.
	maxUser = 256
	// stringCost is about how many bytes of memory a string takes in addition to its text.
	stringCost = 16
)

// imageConfig has the fields of an image's configuration that are read. The history is not
// among them: only the verbose ImageStatus shows it, from the file.
type imageConfig struct {
	Created *time.Time          `json:"created"`
	Config  ocispec.ImageConfig `json:"config"`
	RootFS  ocispec.RootFS      `json:"rootfs"`
}

func parseConfig(raw []byte) (imageConfig, error) {
	var cfg imageConfig
	if err := registry.Decode(raw, &cfg); err != nil {
		return cfg, corrupt("the configuration is not JSON of the expected form: %v", err)
	}
	return cfg, nil
}

// served is the part of an image's manifest and configuration that is kept in memory.
type served struct {
	config      ocispec.ImageConfig
	created     time.Time
	annotations map[string]string
}

// serve returns the part of an image's documents that the CRI serves. Labels and exposed
// ports are left out, because the CRI has no fields for them.
func serve(cfg imageConfig, m ocispec.Manifest) (served, error) {
	s := served{config: cfg.Config, annotations: m.Annotations}
	s.config.Labels, s.config.ExposedPorts = nil, nil
	if cfg.Created != nil {
		s.created = *cfg.Created
	}
	if n := configSize(&s.config); n > maxServed {
		return s, corrupt("its command, environment and volumes take %d bytes; at most %d are accepted; shorten them in the image's configuration", n, maxServed)
	}
	if n := len(s.config.User); n > maxUser {
		return s, corrupt("the name of its user has %d bytes; at most %d are accepted", n, maxUser)
	}
	size := 0
	for k, v := range s.annotations {
		size += len(k) + len(v)
	}
	if size > maxAnnotations {
		return s, corrupt("its manifest has %d bytes of annotations; at most %d are accepted; remove some", size, maxAnnotations)
	}
	return s, nil
}

func configSize(c *ocispec.ImageConfig) int {
	n := len(c.User) + len(c.WorkingDir) + len(c.StopSignal)
	for _, list := range [][]string{c.Env, c.Entrypoint, c.Cmd} {
		for _, s := range list {
			n += len(s) + stringCost
		}
	}
	for v := range c.Volumes {
		n += len(v) + stringCost
	}
	return n
}
