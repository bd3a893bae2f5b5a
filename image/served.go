package image

import (
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/registry"
)

const (
	// maxServed is how many bytes an image's command, environment, volumes and the like
	// may take together. The kernel starts no program with a longer string than 128 KiB.
	maxServed = 256 << 10
	// maxAnnotations is how many bytes the annotations of a manifest may have: every list
	// of the images holds those of all.
	maxAnnotations = 16 << 10
	// maxUser bounds a user's name, which is in these lists too.
	maxUser = 256
	// stringCost is what a string costs beside its bytes, roughly.
	stringCost = 16
)

// imageConfig is what is read of an image's configuration: not its history, which only
// a verbose status shows.
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

// served is what is kept in memory of an image's documents while it is in the store.
type served struct {
	config      ocispec.ImageConfig
	created     time.Time
	annotations map[string]string
}

// serve takes out of an image's documents what is served of them. Labels and exposed
// ports are not: the CRI has no place for them.
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
