package shim

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"berth/oci/shim/mountns"
	"berth/oci/shimapi"
)

// newTemplate makes the mount namespace that containers are cloned from; nil where the kernel
// or the host does not allow it, so that they are cloned from the host's.
func newTemplate(dir string) *mountns.Template {
	spots := filepath.Join(dir, "mounts")
	if err := os.Mkdir(spots, 0o711); err != nil && !errors.Is(err, os.ErrExist) { // it exists if this shim is a replacement
		slog.Warn("containers are cloned from the host's mounts, which are more with every pod", "error", err)
		return nil
	}
	// systemd's sockets, for its cgroups, are in /run.
	t, err := mountns.New(spots, "/run", dir)
	if err != nil {
		slog.Warn("containers are cloned from the host's mounts, which are more with every pod", "error", err)
		return nil
	}
	return t
}

// relocation is a container whose first process is cloned from a template, so that its
// configuration names what it uses of the host's mounts by paths there; nil: from the host.
type relocation struct {
	template *mountns.Template
	root     string
	sources  []mountns.Source
	moved    []*string // the paths in the configuration, by the index of their sources
}

// relocate changes the paths in config: the sources of mounts, and the files that hold
// namespaces. Hooks that run before the container has its root may use any path of the host,
// so a container with one is not relocated.
func relocate(t *mountns.Template, config *configs.Config) *relocation {
	if t == nil || config.HasHook(configs.Prestart, configs.CreateRuntime, configs.CreateContainer) {
		return nil
	}
	r := &relocation{template: t, root: config.Rootfs}
	for _, m := range config.Mounts {
		if m.IsBind() {
			r.move(&m.Source, m.Flags&unix.MS_REC != 0)
		}
	}
	for i := range config.Namespaces {
		if path := &config.Namespaces[i].Path; *path != "" && !strings.HasPrefix(*path, "/proc/") {
			r.move(path, false)
		}
	}
	return r
}

func (r *relocation) move(path *string, recursive bool) {
	spot := r.template.Spot(len(r.moved))
	r.sources = append(r.sources, mountns.Source{Path: *path, Recursive: recursive})
	r.moved = append(r.moved, path)
	*path = spot
}

// start runs f, which starts the first process.
func (r *relocation) start(f func() error) error {
	if r == nil {
		return f()
	}
	var ran bool
	err := r.template.Run(r.root, r.sources, func() error { ran = true; return f() })
	switch {
	case errors.Is(err, mountns.ErrNoRoot):
		for i, path := range r.moved {
			*path = r.sources[i].Path
		}
		return f()
	case errors.Is(err, mountns.ErrSource):
		return fault(shimapi.KindStartFailed, "mounts of the container: %w", err)
	case err != nil && ran:
		return errors.New(r.plain(err.Error()))
	}
	return err
}

// plain names the sources in the text of an error as the host does.
func (r *relocation) plain(text string) string {
	for i, s := range r.sources {
		text = strings.ReplaceAll(text, `"`+r.template.Spot(i)+`"`, `"`+s.Path+`"`)
	}
	return text
}
