package shims

import (
	"context"
	"maps"

	"berth/oci/shimapi"
)

// StartSandbox starts the foreign shim of a pod whose pause process runs, see
// [shimapi.StartSandboxRequest]. It is not repeated if the shim dies during the call.
func (sh *Shim) StartSandbox(ctx context.Context, r *shimapi.StartSandboxRequest) (started shimapi.StartSandboxResponse, err error) {
	sh.set.mu.Lock()
	if h := sh.handover[r.Bundle.ID]; h != nil {
		// A copy: the replacement of a shim that has just died may be reading the old one.
		changed := *h
		changed.streams, changed.Sandbox = maps.Clone(h.streams), r
		sh.handover[r.Bundle.ID] = &changed
	}
	sh.set.mu.Unlock()
	c := sh.open(ctx, shimapi.MethodStartSandbox, r)
	defer c.close()
	files, err := c.receive(ctx, &started)
	shimapi.CloseFiles(files)
	return started, err
}

// Usage tells what a container uses, as its foreign shim says.
func (sh *Shim) Usage(ctx context.Context, id string) (u shimapi.Usage, err error) {
	err = sh.call(ctx, shimapi.MethodStats, shimapi.IDRequest{ID: id}, &u)
	return u, err
}

// Reclaim ends what a foreign shim left of a pod or of its containers when the shim that
// drove it is gone.
func (s *Set) Reclaim(ctx context.Context, r *shimapi.ReclaimRequest) error {
	sh, err := s.ForForeignPod(ctx)
	if err != nil {
		return err
	}
	defer sh.Release()
	return sh.call(ctx, shimapi.MethodReclaim, r, nil)
}
