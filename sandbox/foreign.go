package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/sandbox/record"
)

// reclaimTimeout bounds the end of what a dead shim left.
const reclaimTimeout = time.Minute

// startSandbox starts the foreign shim of a pod, and the container that stands for the pod.
// The pod's network is attached: a runtime with a network stack of its own takes over what
// it finds in the pod's namespace. It does nothing for a pod of the built-in runtime.
func (p *podVerbs) startSandbox(ctx context.Context, s *Sandbox, shim *shims.Shim, plan podPlan) error {
	rec := s.rec.get()
	if !rec.isForeign() {
		return nil
	}
	proc := oci.SandboxProcess{
		Args: []string{"/pause", "w"}, Cwd: "/", Rootfs: p.paths.sandboxProgram(),
		User: *plan.Pause.User, Hostname: plan.Hostname, OOMScoreAdj: plan.Pause.OOMScoreAdj,
	}
	if rec.hasContainer() && rec.Runtime.Image != "" {
		if err := p.mountSandboxImage(ctx, s, &proc); err != nil {
			return fmt.Errorf("image of the sandbox container: %w", err)
		}
	}
	spec, err := oci.SandboxSpec(ociPod(rec, p.host, p.paths), proc, p.host)
	if err != nil {
		return asDomain(err)
	}
	spec.Process.SelinuxLabel, spec.Linux.MountLabel = plan.Labels.Process, plan.Labels.File
	raw, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	req := &shimapi.StartSandboxRequest{Bundle: bundleOf(rec, s.id, p.paths.podStateDir(s.id)), Spec: raw, Container: rec.hasContainer()}
	if req.Container && rec.Runtime.Image == "" {
		req.Program = p.paths.sandboxProgram()
	}
	if _, err := shim.StartSandbox(ctx, req); err != nil {
		return fmt.Errorf("start the sandbox by runtime handler %q: %w", rec.Handler, asDomain(err))
	}
	return nil
}

// mountSandboxImage mounts the image of the sandbox container and reads from its
// configuration what runs.
func (p *podVerbs) mountSandboxImage(ctx context.Context, s *Sandbox, proc *oci.SandboxProcess) error {
	rec := s.rec.get()
	img, err := p.images.Resolve(rec.Runtime.Image)
	if err != nil {
		return err
	}
	// Written before the pod is ready; until then a daemon that finds it destroys it.
	if err := s.change(inMemory, func(rec *podRecord) { rec.SandboxLayers = img.Layers }); err != nil {
		return err
	}
	if err := p.images.Hold(rec.ID, img.Layers); err != nil {
		return err
	}
	target := p.paths.sandboxRootfs(rec.ID)
	if err := os.Mkdir(target, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Writable, for the runtime: images such as pause have no directories to mount on.
	err = p.images.Mount(ctx, RootfsRequest{
		Layers: img.Layers, Target: target, UIDMap: rec.uids, GIDMap: rec.gids,
		Upper: p.paths.podFile(rec.ID, "sandbox-upper"), Work: p.paths.podFile(rec.ID, "sandbox-work"),
	})
	if err != nil {
		return err
	}
	proc.Rootfs, proc.Env = target, img.Config.Env
	proc.Args = append(append([]string{}, img.Config.Entrypoint...), img.Config.Cmd...)
	if img.Config.WorkingDir != "" {
		proc.Cwd = img.Config.WorkingDir
	}
	if len(proc.Args) == 0 {
		return failed(ErrInvalid, "%s names no command", rec.Runtime.Image)
	}
	return nil
}

// holdSandboxImage keeps what mountSandboxImage mounted for an earlier daemon.
func (r *recovery) holdSandboxImage(s *Sandbox) error {
	rec := s.rec.get()
	if len(rec.SandboxLayers) == 0 || rec.Intent == record.Stopped {
		return nil
	}
	if err := r.images.Hold(s.id, rec.SandboxLayers); err != nil {
		return fmt.Errorf("hold the layers of the sandbox container of pod %s: %w", s.id, err)
	}
	return nil
}

// releaseSandboxImage undoes mountSandboxImage.
func (t *teardown) releaseSandboxImage(s *Sandbox) error {
	if rec := s.rec.get(); !rec.hasContainer() || rec.Runtime.Image == "" {
		return nil
	}
	if err := t.images.Unmount(t.paths.sandboxRootfs(s.id)); err != nil {
		return err
	}
	t.images.Release(s.id)
	return nil
}

// bundleOf names a pod or container of it to the pod's foreign shim.
func bundleOf(rec *podRecord, id, dir string) shimapi.Bundle {
	r := rec.Runtime
	return shimapi.Bundle{ID: id, Dir: dir, Runtime: shimapi.Runtime{Shim: r.Shim, Options: r.Options, SocketDir: r.SocketDir, ShimCgroup: r.ShimCgroup}}
}

// reclaimSandbox ends the foreign shim of a pod whose own shim is gone.
func (t *teardown) reclaimSandbox(ctx context.Context, rec *podRecord) error {
	return t.shims.Reclaim(ctx, &shimapi.ReclaimRequest{Pod: bundleOf(rec, rec.ID, t.paths.podStateDir(rec.ID))})
}

// reclaimContainer ends what a foreign shim left of a container, whose pod's own shim is
// gone.
func (t *teardown) reclaimContainer(c *Container) error {
	rec := c.pod.rec.get()
	dir := t.paths.containerStateDir(c.id)
	if !rec.isForeign() || rec.BootID != t.bootID {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was made
	} else if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), reclaimTimeout)
	defer cancel()
	b := bundleOf(rec, c.id, dir)
	b.Ended = c.endIsRecorded()
	return t.shims.Reclaim(ctx, &shimapi.ReclaimRequest{Containers: []shimapi.Bundle{b}})
}
