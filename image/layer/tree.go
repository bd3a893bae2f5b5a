package layer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"berth/oci/openat2"
)

// cachedDirs is how many parent directories are kept open, each with one file descriptor. A
// few suffice, because archives are in depth-first order.
const cachedDirs = 32

// maxPath is how many bytes a path in a tree may have. With the path of the store it stays
// below PATH_MAX, so that every tool can reach every file of the tree by its path.
const maxPath = 3500

// maxDepth is how many elements a path in a tree may have. A path of PATH_MAX bytes could
// have 2000, and a program that walks the tree recursively would need as many levels.
const maxDepth = 255

var errDepth = fmt.Errorf("%w: path of more than %d elements", ErrArchive, maxDepth)

// maxLinks is how many symbolic links one path may lead through. The kernel's limit is the
// same (path_resolution(7)).
const maxLinks = 40

// dir is an open directory inside a tree.
type dir struct {
	fd   int    // O_PATH
	real string // path from the root without symbolic links; "" is the root
	used uint64
}

// tree gives access to the files below one directory. No path leads out of it, whatever
// symbolic links it contains.
type tree struct {
	root  int
	cache map[string]*dir
	clock uint64
	made  func(real string) error
	// steps is how many elements of paths may still be resolved one by one, which is done
	// where the kernel can't resolve the path in one call. It is checked only if limited
	// is set.
	steps   int
	limited bool
}

// openTree opens dirPath as the root of a tree. made is called for every directory that is
// created because a path needs it; it may be nil.
func openTree(dirPath string, made func(string) error) (*tree, error) {
	fd, err := openRoot(dirPath)
	if err != nil {
		return nil, err
	}
	return &tree{root: fd, cache: map[string]*dir{}, made: made}, nil
}

func openRoot(dirPath string) (int, error) {
	fd, err := unix.Open(dirPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dirPath, Err: err}
	}
	return fd, nil
}

func (t *tree) close() error {
	t.forget()
	return unix.Close(t.root)
}

// forget closes all cached directories. It is called when a directory or a symbolic link was
// replaced, because cached paths may have led through it.
func (t *tree) forget() {
	for p, d := range t.cache {
		unix.Close(d.fd) // O_PATH: nothing can be lost by closing
		delete(t.cache, p)
	}
}

// parent opens the directory that contains name, a clean relative path, and returns it with
// the last element of name. If create is set, missing directories are created. The dir is
// valid until [cachedDirs] other directories were resolved.
func (t *tree) parent(name string, create bool) (*dir, string, error) {
	d, base := path.Split(name)
	h, err := t.resolve(strings.TrimSuffix(d, "/"), create)
	if err != nil {
		return nil, "", err
	}
	if len(h.real)+1+len(base) > maxPath {
		return nil, "", fmt.Errorf("%w: path of more than %d bytes", ErrArchive, maxPath)
	}
	if create && h.real != "" && strings.Count(h.real, "/")+2 > maxDepth {
		return nil, "", errDepth
	}
	return h, base, nil
}

// resolve opens the directory p, a clean relative path; "" is the root.
func (t *tree) resolve(p string, create bool) (*dir, error) {
	t.clock++
	if d, ok := t.cache[p]; ok {
		d.used = t.clock
		return d, nil
	}
	fd, real, err := t.find(p, create)
	if err != nil {
		return nil, &os.PathError{Op: "resolve", Path: shortened(p), Err: err}
	}
	d := &dir{fd: fd, real: real, used: t.clock}
	t.evict()
	t.cache[p] = d
	return d, nil
}

// shortened returns at most 200 bytes of a path, for the text of an error.
func shortened(p string) string {
	if len(p) > 200 {
		return p[:200] + "..."
	}
	return p
}

// find opens the directory p: by one call of the kernel if no symbolic link is in the way,
// otherwise by walk. The kernel must not follow links here, because in a hostile archive
// one link can take it thousands of steps; in walk they are counted.
func (t *tree) find(p string, create bool) (fd int, real string, err error) {
	fd, err = exact(t.root, p, unix.O_PATH)
	switch {
	case err == nil:
		return fd, p, nil
	case errors.Is(err, unix.ELOOP), create && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)):
		return t.walk(p, create)
	}
	return -1, "", err
}

func (t *tree) evict() {
	if len(t.cache) < cachedDirs {
		return
	}
	oldest := ""
	var used uint64 = 1<<64 - 1
	for p, d := range t.cache {
		if d.used < used {
			oldest, used = p, d.used
		}
	}
	unix.Close(t.cache[oldest].fd) // O_PATH: nothing can be lost by closing
	delete(t.cache, oldest)
}

// walk opens the directory p one element at a time, and reads symbolic links itself. It can
// therefore create missing directories, also those to which a dangling link leads.
func (t *tree) walk(p string, create bool) (fd int, real string, err error) {
	w := walker{t: t, create: create, fd: -1}
	if err := w.start(p); err != nil {
		return -1, "", err
	}
	for len(w.todo) > 0 {
		elem := w.todo[0]
		w.todo = w.todo[1:]
		if err := w.step(elem); err != nil {
			return -1, "", errors.Join(err, unix.Close(w.fd))
		}
	}
	return w.fd, strings.Join(w.names, "/"), nil
}

// walker is the state of one walk. Only the directory that it has reached is open.
type walker struct {
	t      *tree
	create bool
	todo   []string // the elements of the path that are left
	fd     int      // the directory reached, O_PATH
	names  []string // the path from the root to fd, without symbolic links
	links  int
}

// start begins the walk at the cached directory that is nearest to p. Archives are in
// depth-first order, so most of a path is usually cached.
func (w *walker) start(p string) error {
	at, real, rest := w.t.root, "", p
	for end := len(p); end > 0; end = strings.LastIndexByte(p[:end], '/') {
		if d, ok := w.t.cache[p[:end]]; ok {
			at, real, rest = d.fd, d.real, p[end:]
			break
		}
	}
	if real != "" {
		w.names = strings.Split(real, "/")
	}
	w.todo = strings.Split(rest, "/")
	return w.move(at, ".")
}

// move goes to the directory name below the descriptor at. No element of name may be a
// symbolic link.
func (w *walker) move(at int, name string) error {
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.reach(fd)
	return nil
}

func (w *walker) reach(fd int) {
	if w.fd >= 0 {
		unix.Close(w.fd) // O_PATH: nothing can be lost by closing
	}
	w.fd = fd
}

func (w *walker) step(elem string) error {
	if w.t.steps--; w.t.limited && w.t.steps < 0 {
		return fmt.Errorf("%w: its paths lead through too many links and directories; describe directories before what is in them, and name files without going through links", ErrArchive)
	}
	switch elem {
	case "", ".":
		return nil
	case "..":
		return w.up()
	}
	fd, err := unix.Openat(w.fd, elem, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) && w.create {
		fd, err = w.mkdir(elem)
	}
	if err != nil {
		return err
	}
	return w.enter(fd, elem)
}

// up goes to the parent directory; the parent of the root is the root. No other process
// changes the tree, so ".." of a directory below the root is in the tree.
func (w *walker) up() error {
	if len(w.names) == 0 {
		return nil
	}
	w.names = w.names[:len(w.names)-1]
	return w.move(w.fd, "..")
}

func (w *walker) mkdir(elem string) (int, error) {
	if len(w.names) >= maxDepth-1 { // the directory is to contain at least one entry
		return -1, errDepth
	}
	real := strings.Join(append(w.names[:len(w.names):len(w.names)], elem), "/")
	if len(real) > maxPath {
		return -1, fmt.Errorf("%w: path of more than %d bytes", ErrArchive, maxPath)
	}
	if w.t.made != nil {
		if err := w.t.made(real); err != nil {
			return -1, err
		}
	}
	if err := unix.Mkdirat(w.fd, elem, 0o755); err != nil {
		return -1, err
	}
	if err := unix.Fchmodat(w.fd, elem, 0o755, 0); err != nil { // mkdirat applied the umask
		return -1, err
	}
	return unix.Openat(w.fd, elem, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// enter goes on to fd, which was opened at elem: into it if it is a directory, or along the
// target if it is a symbolic link.
func (w *walker) enter(fd int, elem string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		w.names = append(w.names, elem)
		w.reach(fd)
		return nil
	case unix.S_IFLNK:
		target, err := readlinkFd(fd)
		unix.Close(fd) // O_PATH: nothing can be lost by closing
		if err != nil {
			return err
		}
		return w.follow(target)
	}
	unix.Close(fd) // O_PATH: nothing can be lost by closing
	if w.create && isWhiteoutNode(&st) {
		return w.reopen(elem)
	}
	return unix.ENOTDIR
}

// reopen replaces a whiteout by a directory. The directory is opaque, because the whiteout
// hides the directory of this name in the layers below.
func (w *walker) reopen(elem string) error {
	if err := unix.Unlinkat(w.fd, elem, 0); err != nil {
		return err
	}
	fd, err := w.mkdir(elem)
	if err != nil {
		return err
	}
	if err := setOpaque(w.fd, elem); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	w.names = append(w.names, elem)
	w.reach(fd)
	return nil
}

func (w *walker) follow(target string) error {
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	w.todo = append(strings.Split(target, "/"), w.todo...)
	if !strings.HasPrefix(target, "/") {
		return nil
	}
	w.names = nil
	return w.move(w.t.root, ".")
}

func readlinkFd(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// noOpenat2 is set when the kernel (before 5.6) or a seccomp profile has refused openat2(2).
var noOpenat2 atomic.Bool

// exact opens name, a clean relative path, below the directory root. It follows no symbolic
// link: if there is one in the path, the error is ELOOP. "" is the root.
func exact(root int, name string, flags int) (int, error) {
	if name == "" {
		name = "."
	}
	flags |= unix.O_DIRECTORY | unix.O_CLOEXEC
	if !noOpenat2.Load() {
		fd, err := openat2.Open(root, name, uint64(flags), unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
		if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
			return fd, err
		}
		noOpenat2.Store(true)
	}
	return exactWalk(root, name, flags|unix.O_NOFOLLOW)
}

func exactWalk(root int, name string, flags int) (int, error) {
	fd, err := unix.Openat(root, ".", flags, 0)
	for _, elem := range strings.Split(name, "/") {
		if err != nil {
			return -1, err
		}
		next, nerr := unix.Openat(fd, elem, flags, 0)
		if errors.Is(nerr, unix.ENOTDIR) && isLink(fd, elem) {
			nerr = unix.ELOOP
		}
		unix.Close(fd) // nothing is written
		fd, err = next, nerr
	}
	return fd, err
}

func isLink(dirfd int, name string) bool {
	var st unix.Stat_t
	err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// clean converts a name in an archive to a clean relative path. The name is resolved as if
// the root of the tree were "/", so no number of ".." leads out of it. "" is the root.
func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}
