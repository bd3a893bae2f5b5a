package explain

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fullShare is the part of a filesystem, in percent, below which its free space
// or inodes count as none.
const fullShare = 1

// filesystemLayer tells of the root file system and of volumes.
type filesystemLayer struct {
	subject
	*section
}

func (l filesystemLayer) tell() {
	record := filepath.Join(l.ctr.dir, "container.json")
	l.fact("image", record, "%s, %d layers", l.ctr.ImageID, len(l.ctr.Layers))
	l.fact("cwd", record, "%s", l.ctr.Spec.Process.Cwd)
	l.rootMount()
	l.space()
	l.volumes()
}

// rootMount looks for the overlay that the container's root is.
func (l filesystemLayer) rootMount() {
	const table = "/proc/self/mountinfo"
	found, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(l.ctr.rootfs))
	switch {
	case err != nil:
		l.unreadable("root", table, err)
	case len(found) > 0 && l.ctr.Spec.Root != nil && l.ctr.Spec.Root.Readonly:
		l.fact("root", table, "%s, read-only for the container", found[0].FSType)
	case len(found) > 0:
		l.fact("root", table, "%s, writable", found[0].FSType)
	case l.proc.alive():
		l.fact("root", table, "not mounted at %s", l.ctr.rootfs)
		l.find(strong, "remove and create the container again", "its root filesystem was unmounted behind its back")
	default:
		l.fact("root", table, "not mounted any more")
	}
}

// space tells of the filesystem that writable layers are on.
func (l filesystemLayer) space() {
	var st unix.Statfs_t
	if err := unix.Statfs(l.ctr.dir, &st); err != nil {
		l.unreadable("free", l.ctr.dir, err)
		return
	}
	l.fact("free", l.ctr.dir, "%s of %s, %d of %d inodes", Bytes(st.Bavail*uint64(st.Bsize)), Bytes(st.Blocks*uint64(st.Bsize)), st.Ffree, st.Files)
	if st.Bavail*100 < st.Blocks*fullShare || st.Files > 0 && st.Ffree*100 < st.Files*fullShare {
		l.find(likely, "free some, or remove unused images", "the filesystem of the writable layers is full")
	}
}

// volumes are the mounts the client asked for, as the container sees them.
func (l filesystemLayer) volumes() {
	seen := map[string]*mountinfo.Info{}
	if l.proc.alive() {
		mounts, err := l.proc.mounts(func(point string) bool {
			return slices.ContainsFunc(l.ctr.config.GetMounts(), func(m *runtimeapi.Mount) bool { return m.GetContainerPath() == point })
		})
		if err != nil {
			l.unreadable("mounts", l.proc.file("mountinfo"), err)
		}
		for _, m := range mounts {
			seen[m.Mountpoint] = m // the last one hides those before it
		}
	}
	for _, m := range l.ctr.config.GetMounts() {
		value, from := m.GetHostPath(), filepath.Join(l.ctr.dir, "container.json")
		if is := seen[m.GetContainerPath()]; is != nil {
			value, from = fmt.Sprintf("%s (%s, %s)", value, is.FSType, is.Options), l.proc.file("mountinfo")
		} else if l.proc.alive() {
			value += " (not mounted now)"
		}
		l.fact(m.GetContainerPath(), from, "%s", value)
		l.source(m)
	}
}

// source looks whether what a mount comes from is still there. It may be on a file
// system whose server is gone.
func (l filesystemLayer) source(m *runtimeapi.Mount) {
	if m.GetHostPath() == "" {
		return
	}
	switch _, err := inTime(func() (fs.FileInfo, error) { return os.Lstat(m.GetHostPath()) }); {
	case errors.Is(err, errLate):
		l.find(likely, "see whether the server of its file system runs", "the source of %s, %s, does not answer", m.GetContainerPath(), m.GetHostPath())
	case errors.Is(err, fs.ErrNotExist):
		l.find(possible, "make it again, and the container", "the source of %s, %s, is gone", m.GetContainerPath(), m.GetHostPath())
	}
}

// Bytes shows an amount for a person to read.
func Bytes(n uint64) string {
	const unit = 1024
	value, prefix := float64(n), ""
	for _, p := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if value < unit {
			break
		}
		value, prefix = value/unit, p
	}
	return fmt.Sprintf("%.4g %sB", value, prefix)
}
