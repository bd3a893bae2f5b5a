package image

import (
	"context"

	"github.com/opencontainers/go-digest"

	"berth/image/registry"
)

// TrustPolicy says which images may be pulled.
type TrustPolicy struct{}

func (p *TrustPolicy) allowName(registry.Reference) error { return nil }

func (p *TrustPolicy) allow(context.Context, registry.Reference, *found, *registry.Repository) error {
	return nil
}

func (p *TrustPolicy) allowKnown(context.Context, registry.Reference, digest.Digest, *registry.Repository) error {
	return nil
}
