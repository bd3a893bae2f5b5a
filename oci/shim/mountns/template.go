package mountns

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"berth/oci/thread"
)

// threadMounts opens the mount namespace of the calling thread.
const threadMounts = "/proc/thread-self/ns/mnt"

// trees are cloned with all that is mounted below them. The kernel allows a new /proc or /sys
// in a user namespace only where one is visible as a whole.
var trees = []string{"/proc", "/sys", "/dev"}

// Template is a mount namespace that containers are cloned from.
type Template struct {
	ns  *os.File
	dir string
}

// New makes a template. dir is an empty directory, on which a copy attaches the sources of
// mounts. needed are paths that a process in a copy must find, besides dir, this program and
// its libraries; those that are not there on the host are left out. It needs Linux 5.2, and
// fails where a path would not be found.
func New(dir string, needed ...string) (*Template, error) {
	libraries, err := mappedFiles()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // a link may lie on a mount that is left out
		return nil, err
	}
	paths := existing(slices.Concat([]string{dir}, needed, libraries))
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	t := &Template{dir: dir}
	thread.Run(func() {
		t.ns, err = build(dir, covering(mounts, paths), paths)
	})
	if err != nil {
		return nil, fmt.Errorf("mount namespace for containers: %w", err)
	}
	return t, nil
}

// Close releases the namespace. Copies stay.
func (t *Template) Close() error { return t.ns.Close() }

// mappedFiles are the files that this process has mapped: its libraries, and what loads them.
func mappedFiles() ([]string, error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := []string{"/etc/ld.so.cache"}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		_, path, ok := strings.Cut(lines.Text(), " /")
		if ok && !slices.Contains(files, "/"+path) && !strings.HasSuffix(path, " (deleted)") {
			files = append(files, "/"+path)
		}
	}
	return files, lines.Err()
}

// existing gives the real names of those paths that are there.
func existing(paths []string) (found []string) {
	for _, p := range paths {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			found = append(found, real)
		}
	}
	return found
}

// covering gives the mount points above the paths, without the root and the trees, those
// first that others lie below.
func covering(mounts []*mountinfo.Info, paths []string) (points []string) {
	for _, m := range mounts {
		point := m.Mountpoint
		if point == "/" || slices.Contains(points, point) || slices.ContainsFunc(trees, func(t string) bool { return within(point, t) }) {
			continue
		}
		if slices.ContainsFunc(paths, func(p string) bool { return within(p, point) }) {
			points = append(points, point)
		}
	}
	slices.SortFunc(points, func(a, b string) int { return len(a) - len(b) })
	return points
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// build moves the calling thread to a new mount namespace and makes the template there: clones
// of single mounts below dir, which then becomes the root.
func build(dir string, points, paths []string) (*os.File, error) {
	if err := leave(); err != nil {
		return nil, err
	}
	// Nothing that follows may propagate to the host.
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("make all mounts private: %w", err)
	}
	if err := graft("/", dir, 0); err != nil {
		return nil, err
	}
	for _, p := range points {
		if err := graft(p, filepath.Join(dir, p), 0); err != nil {
			return nil, err
		}
	}
	for _, p := range trees {
		if err := graft(p, filepath.Join(dir, p), unix.AT_RECURSIVE); err != nil {
			return nil, err
		}
	}
	if err := thread.PivotRoot(dir); err != nil {
		return nil, err
	}
	for _, p := range paths {
		if _, err := os.Lstat(p); err != nil {
			return nil, fmt.Errorf("not found in the namespace: %w", err)
		}
	}
	return os.Open(threadMounts)
}

// leave gives the calling thread a mount namespace of its own, a copy of that it is in.
func leave() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	return nil
}

// graft clones the mount at the path from, or a part of it, and attaches the clone at to.
func graft(from, to string, recursive uint) error {
	at, err := unix.Open(from, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: from, Err: err}
	}
	defer unix.Close(at)
	fd, err := clone(at, from, recursive)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return attach(fd, to)
}

// clone gives a detached clone of what a descriptor of the path is for.
func clone(at int, path string, recursive uint) (int, error) {
	fd, err := unix.OpenTree(at, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive)
	if err != nil {
		return -1, &fs.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return fd, nil
}

// resolveCached is RESOLVE_CACHED of linux/openat2.h, since Linux 5.12.
const resolveCached = 0x20

// maxTries is how often a path is looked up while renames and mounts elsewhere get in the way.
const maxTries = 8

// lookup opens a path, and says whether it is a directory, without waiting for any file
// system: from the kernel's cache of names (RESOLVE_CACHED, see openat2(2)) and without a
// look at the file. What is not cached, or may only be used after a question to a server, is
// EAGAIN. A server that is gone would keep this thread, and with it the shim and all its
// pods, where no signal reaches it.
func lookup(path string) (fd int, dir bool, err error) {
	for range maxTries {
		for _, dir := range []bool{true, false} {
			how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolveCached}
			if dir {
				how.Flags |= unix.O_DIRECTORY
			}
			if fd, err = unix.Openat2(unix.AT_FDCWD, path, &how); err == nil {
				return fd, dir, nil
			}
			if err != unix.ENOTDIR {
				break
			}
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return -1, false, &fs.PathError{Op: "openat2", Path: path, Err: err}
}

func attach(fd int, to string) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: to, Err: err}
	}
	return nil
}

// Source is what one mount of a container shows.
type Source struct {
	Path      string // on the host
	Recursive bool   // with all that is mounted below it
}

// Spot is the path of the source with this index in a copy of the template.
func (t *Template) Spot(i int) string { return filepath.Join(t.dir, fmt.Sprint(i)) }

// ErrNoCopy says that the function has not run, since the copy could not be made: what a path
// names is not there, or not in the kernel's cache of names, or the template lacks the
// directory that is to be the root.
var ErrNoCopy = errors.New("no mount namespace for this container")

// Run runs f on a thread in a copy of the template. There root, a directory of the host that
// the template has, shows what is mounted on it, and [Template.Spot] of an index shows that
// source. What f starts keeps the copy. It waits for no file system. After an error that
// matches [ErrNoCopy] f has not run, and can be run in the host's namespace.
func (t *Template) Run(root string, sources []Source, f func() error) error {
	var err error
	thread.Run(func() {
		// While the thread is in the host's namespace.
		trees, failed := openAll(append([]Source{{Path: root}}, sources...))
		if failed == nil {
			failed = t.furnish(root, trees)
		}
		for _, c := range trees {
			_ = unix.Close(c.fd) // attached, or to be dropped
		}
		if failed != nil {
			err = fmt.Errorf("%w: %w", ErrNoCopy, failed)
			return
		}
		err = f()
	})
	return err
}

// tree is a detached clone.
type tree struct {
	fd  int
	dir bool
}

// openAll clones the sources. With an error it returns those before the one that failed.
func openAll(sources []Source) (all []tree, err error) {
	for _, s := range sources {
		c, err := s.open()
		if err != nil {
			return all, err
		}
		all = append(all, c)
	}
	return all, nil
}

func (s Source) open() (tree, error) {
	at, dir, err := lookup(s.Path)
	if err != nil {
		return tree{}, err
	}
	defer unix.Close(at)
	recursive := uint(0)
	if s.Recursive {
		recursive = unix.AT_RECURSIVE
	}
	fd, err := clone(at, s.Path, recursive)
	return tree{fd: fd, dir: dir}, err
}

// enter moves the calling thread to the template.
func (t *Template) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(int(t.ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mount namespace for containers: %w", err)
	}
	return nil
}

// furnish moves the calling thread to a copy of the template and attaches the clones there:
// the first at root, the others at their spots.
func (t *Template) furnish(root string, trees []tree) error {
	if err := errors.Join(t.enter(), leave()); err != nil {
		return err
	}
	if err := attach(trees[0].fd, root); err != nil {
		return err
	}
	if err := unix.Mount("sources", t.dir, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0711"); err != nil {
		return fmt.Errorf("mount a directory for the sources: %w", err)
	}
	for i, c := range trees[1:] {
		spot := t.Spot(i)
		if err := makeSpot(spot, c.dir); err != nil {
			return err
		}
		if err := attach(c.fd, spot); err != nil {
			return err
		}
	}
	return nil
}

// makeSpot makes what a mount can be attached to.
func makeSpot(path string, dir bool) error {
	if dir {
		return os.Mkdir(path, 0o755)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	return f.Close()
}
