package layer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// cachedDirs is how many parent directories stay open. Archives are in
// depth-first order, so a few are enough; each is one file descriptor.
const cachedDirs = 32

// maxPath keeps every path of a tree below PATH_MAX, so that other tools (and
// the removal of the tree) can reach everything in it.
const maxPath = 3500

// maxDepth is how many elements a path of a tree may have, however an archive
// describes it. A path of PATH_MAX bytes could have 2000, and every program that
// goes through the tree recursively would need as many levels.
const maxDepth = 255

var errDepth = fmt.Errorf("%w: path of more than %d elements", ErrArchive, maxDepth)

// maxLinks is how many symbolic links one path may lead through, as in the kernel.
const maxLinks = 40

// dir is an open directory inside a tree.
type dir struct {
	fd   int    // O_PATH
	real string // path from the root without symbolic links; "" is the root
	used uint64
}

// tree confines all access to one directory.
type tree struct {
	root  int
	cache map[string]*dir
	clock uint64
	made  func(real string) error
	// steps is how many more elements of paths may be walked one by one, where the
	// kernel can't resolve the path in one call; bounded only where limited is set.
	steps   int
	limited bool
}

// openTree opens the directory at path as the root. made is told of every
// directory that had to be created because a path needed it; it may be nil.
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

// forget closes all cached directories: something a path may lead through changed.
func (t *tree) forget() {
	for p, d := range t.cache {
		unix.Close(d.fd) // O_PATH: nothing can be lost by closing
		delete(t.cache, p)
	}
}

// parent resolves the directory of the cleaned, relative path name and returns it
// with the last element. With create, missing directories are made. The dir is
// valid until a few more were resolved.
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

// resolve opens a directory given by its cleaned, relative path; "" is the root.
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

// shortened is a path as it is told in an error.
func shortened(p string) string {
	if len(p) > 200 {
		return p[:200] + "..."
	}
	return p
}

// find leaves to the kernel what it can do in one call. It does not let it follow
// links: an archive can make each link cost thousands of steps, which are only
// counted where they are walked here.
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

// walk opens the directory p one element at a time without letting the kernel
// follow links, so it can make what is missing, also behind a dangling link.
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

// walker is on its way through a tree. It holds only the directory it has reached.
type walker struct {
	t      *tree
	create bool
	todo   []string // what of the path is still ahead
	fd     int      // O_PATH
	names  []string // how the root leads to fd, without links
	links  int
}

// start begins at the cached directory that is nearest to p: archives are in depth-first
// order, so that most of a path was walked before.
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

// move goes on to the directory at name, which must not be a link.
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

// up goes to the parent directory; that of the root is the root. Nobody else
// changes the tree, so that ".." of a directory below the root is inside.
func (w *walker) up() error {
	if len(w.names) == 0 {
		return nil
	}
	w.names = w.names[:len(w.names)-1]
	return w.move(w.fd, "..")
}

func (w *walker) mkdir(elem string) (int, error) {
	if len(w.names) >= maxDepth-1 { // something is to be in it
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
	if err := unix.Fchmodat(w.fd, elem, 0o755, 0); err != nil { // whatever the umask
		return -1, err
	}
	return unix.Openat(w.fd, elem, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// enter descends into what fd is: a directory, or a link whose target is walked next.
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

// reopen makes a directory of a whiteout. It shows nothing of the layers below, which is
// what the whiteout said.
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

// noOpenat2 is set once the kernel (before 5.6) or a seccomp profile refused openat2.
var noOpenat2 atomic.Bool

// exact opens the directory at the clean, relative path name below root without
// following any link: where one is in the way, the error is ELOOP. "" is the root.
func exact(root int, name string, flags int) (int, error) {
	if name == "" {
		name = "."
	}
	flags |= unix.O_DIRECTORY | unix.O_CLOEXEC
	how := unix.OpenHow{
		Flags:   uint64(flags),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	for !noOpenat2.Load() {
		fd, err := unix.Openat2(root, name, &how)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR: // a rename or mount anywhere raced with it
			continue
		case err == unix.ENOSYS || err == unix.EPERM:
			noOpenat2.Store(true)
			continue
		}
		return fd, err
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

// clean maps a name of an archive to a relative path inside the tree: it is taken
// as if the root were "/", so that no number of ".." leaves it. "" is the root.
func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}
