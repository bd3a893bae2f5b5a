package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/dirtree"
)

const (
	// categories is how many categories the usual policies have, and what containerd
	// takes pairs of: 523,776 pairs.
	categories = 1024
	// pairTries is how often a pair is drawn. With 10,000 pods 2 of 100 are taken.
	pairTries = 1000
)

// takeLevel gives the SELinux level of a pod that is about to be made: what the pod asks
// for, else a pair of categories that no other pod has. It is taken until settle is called;
// a pod in the index keeps its own, also one that was found on disk. On a host without
// SELinux the level is "".
func (ix *index) takeLevel(cfg *runtimeapi.PodSandboxConfig, h oci.Host) (level string, settle func(), err error) {
	if h.Labels.Process == "" {
		return "", func() {}, nil
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	level = cfg.GetLinux().GetSecurityContext().GetSelinuxOptions().GetLevel()
	for i := 0; level == ""; i++ {
		if i == pairTries {
			return "", nil, fmt.Errorf("no pair of %d SELinux categories was found that no pod has", categories)
		}
		a, b := rand.IntN(categories), rand.IntN(categories)
		if pair := fmt.Sprintf("s0:c%d,c%d", min(a, b), max(a, b)); a != b && ix.levels[pair] == 0 {
			level = pair
		}
	}
	ix.levels[level]++
	return level, func() {
		ix.mu.Lock()
		defer ix.mu.Unlock()
		ix.dropLevelLocked(level)
	}, nil
}

func (ix *index) dropLevelLocked(level string) {
	if ix.levels[level]--; ix.levels[level] == 0 {
		delete(ix.levels, level)
	}
}

// setLabel labels one of our own files; "" leaves it.
func setLabel(path, to string) error {
	if err := label.SetFileLabel(path, to); err != nil {
		return fmt.Errorf("give a file of the pod its SELinux label: %w", err)
	}
	return nil
}

// relabel gives the container's label to the volumes that ask for it (selinux_relabel), and
// makes the pod's own files and berth's program readable for it. What is not confined can
// use all of them as they are, so its volumes are left alone, as CRI-O does it.
func (v *containerVerbs) relabel(ctx context.Context, m planned) error {
	l := m.Spec.Labels()
	if l.File == "" {
		return nil
	}
	if err := labelOwn(m.Spec, l); err != nil || !l.Confined() {
		return err
	}
	var done []string
	for _, mt := range m.found.Mounts {
		if !mt.GetSelinuxRelabel() || mt.Source == "" || slices.Contains(done, mt.Source) {
			continue
		}
		done = append(done, mt.Source)
		_, err := workAt(ctx, v.looks, mt.Source, func() (struct{}, error) {
			return struct{}{}, relabelVolume(ctx, mt.Source, l.File)
		})
		if err != nil {
			return fmt.Errorf("selinux_relabel of the mount of %.256q: %w", mt.GetContainerPath(), err)
		}
	}
	return nil
}

// relabelVolume labels a tree. One of the directories that the machine itself needs, which
// go-selinux lists, is refused.
func relabelVolume(ctx context.Context, source, to string) error {
	err := selinux.Chcon(source, to, false) // not recursive, but it knows the list
	if errors.Is(err, unix.ENOTSUP) {
		return nil // see dirtree.Label
	}
	if errno := unix.Errno(0); err != nil && !errors.As(err, &errno) {
		return fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	if err != nil {
		return err
	}
	return dirtree.Label(ctx, source, to)
}

// labelOwn: the files of a pod have its label. A container that has another level than its
// pod could not use them, so that they are then given the one without categories, that of
// all containers; no other pod gets at them by a path.
func labelOwn(d *oci.Draft, l oci.Labels) error {
	c, p := d.Container(), d.Pod()
	shared := []string{cmp.Or(c.Init, c.Bytes)} // the same file, if both are wanted
	if l.Level() != p.Level {
		shared = append(shared, p.HostnamePath, p.HostsPath, p.ResolvPath, p.ShmPath)
	}
	var errs []error
	for _, path := range shared {
		if path != "" {
			errs = append(errs, setLabel(path, l.Shared()))
		}
	}
	return errors.Join(errs...)
}
