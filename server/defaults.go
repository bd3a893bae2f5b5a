package server

import (
	"fmt"

	"berth/oci"
	"berth/server/config"
)

// containerDefaults is what the configuration gives to containers that ask for nothing of
// the kind.
func containerDefaults(cfg config.Config) (oci.Defaults, error) {
	d := oci.Defaults{OwnDevices: cfg.OwnDevices}
	var err error
	if d.Ulimits, err = oci.ParseUlimits(cfg.DefaultUlimits); err != nil {
		return d, fmt.Errorf("default_ulimits: %w", err)
	}
	if d.Capabilities, err = oci.ParseCapabilities(cfg.DefaultCapabilities); err != nil {
		return d, fmt.Errorf("default_capabilities: %w", err)
	}
	if cfg.SeccompDefault != "" {
		if d.Seccomp, err = oci.LoadDefaultSeccomp(cfg.SeccompDefault); err != nil {
			return d, fmt.Errorf("seccomp_default: %w", err)
		}
	}
	if d.ShmSize, err = config.ParseSize(cfg.ShmSize); err != nil {
		return d, fmt.Errorf("shm_size: %w", err)
	}
	if d.Log.Size, d.Log.Rate, err = cfg.LogBounds(); err != nil {
		return d, fmt.Errorf("log_limits: %w", err)
	}
	return d, nil
}
