package shim

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"berth/oci/shim/mountns"
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

// relocate gives the relocation of a container that is made already, since libcontainer looks
// at some paths when it makes one. nil: the container is cloned from the host.
func relocate(t *mountns.Template, config *configs.Config) *relocation {
	if t == nil || needsHost(config) {
		return nil
	}
	r := &relocation{template: t, root: config.Rootfs}
	for _, m := range config.Mounts {
		if m.IsBind() {
			r.add(&m.Source, m.Flags&unix.MS_REC != 0)
		}
	}
	for i := range config.Namespaces {
		if path := &config.Namespaces[i].Path; *path != "" && !strings.HasPrefix(*path, "/proc/") {
			r.add(path, false)
		}
	}
	return r
}

// needsHost is true of a container that may use a path of the host that can't be told from
// its configuration (hooks that run before it has its root, the socket of a seccomp agent,
// options of mounts), and of one that sees what the host mounts while it starts.
func needsHost(config *configs.Config) bool {
	return config.HasHook(configs.Prestart, configs.CreateRuntime, configs.CreateContainer) ||
		config.Seccomp != nil && config.Seccomp.ListenerPath != "" ||
		config.RootPropagation&^(unix.MS_PRIVATE|unix.MS_REC) != 0 ||
		slices.ContainsFunc(config.Mounts, func(m *configs.Mount) bool {
			return m.Extensions != 0 || !m.IsBind() && !slices.Contains(pathless, m.Device) ||
				slices.ContainsFunc(m.PropagationFlags, func(f int) bool { return f&(unix.MS_SHARED|unix.MS_SLAVE) != 0 })
		})
}

// pathless are the file systems that are mounted without a path of the host.
var pathless = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}

func (r *relocation) add(path *string, recursive bool) {
	r.sources = append(r.sources, mountns.Source{Path: *path, Recursive: recursive})
	r.moved = append(r.moved, path)
}

// start runs f, which starts the first process, and has the paths changed meanwhile.
func (r *relocation) start(f func() error) error {
	if r == nil {
		return f()
	}
	for i, path := range r.moved {
		*path = r.template.Spot(i)
	}
	err := r.template.Run(r.root, r.sources, f)
	for i, path := range r.moved {
		*path = r.sources[i].Path
	}
	switch {
	case errors.Is(err, mountns.ErrNoCopy):
		slog.Debug("a container is cloned from the host's mounts", "reason", err)
		return f()
	case err != nil:
		return r.plain(err)
	}
	return nil
}

// plain names the sources in the text of an error as the host does.
func (r *relocation) plain(err error) error {
	text := err.Error()
	for i, s := range slices.Backward(r.sources) { // number 1 is the beginning of number 10
		text = strings.ReplaceAll(text, r.template.Spot(i), s.Path)
	}
	if text == err.Error() {
		return err
	}
	return errors.New(text)
}
