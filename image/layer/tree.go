package layer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cachedDirs is how many parent directories stay open. Archives are in
// depth-first order, so a few are enough; each is one file descriptor.
const cachedDirs = 32

// maxPath keeps every path of a tree below PATH_MAX, so that other tools (and
// the removal of the tree) can reach everything in it.
const maxPath = 3500

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
	root     int
	rootPath string
	cache    map[string]*dir
	clock    uint64
	noIn     bool // openat2 is not available
	made     func(real string)
}

// openTree opens the directory at path as the root. made is told of every
// directory that had to be created because a path needed it; it may be nil.
func openTree(dirPath string, made func(string)) (*tree, error) {
	fd, err := unix.Open(dirPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dirPath, Err: err}
	}
	real, err := fdPath(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &tree{root: fd, rootPath: real, cache: map[string]*dir{}, made: made}, nil
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
	return h, base, nil
}

// resolve opens a directory given by its cleaned, relative path; "" is the root.
func (t *tree) resolve(p string, create bool) (*dir, error) {
	t.clock++
	if d, ok := t.cache[p]; ok {
		d.used = t.clock
		return d, nil
	}
	fd, err := t.lookup(p)
	if create && errors.Is(err, unix.ENOENT) {
		fd, err = t.walk(p, true)
	}
	if err != nil {
		return nil, &os.PathError{Op: "resolve", Path: p, Err: err}
	}
	real, err := t.realPath(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	d := &dir{fd: fd, real: real, used: t.clock}
	t.evict()
	t.cache[p] = d
	return d, nil
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

// lookup opens an existing directory, by one system call where the kernel can.
func (t *tree) lookup(p string) (int, error) {
	if p == "" {
		p = "."
	}
	if t.noIn {
		return t.walk(p, false)
	}
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(t.root, p, &how)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR: // a rename or mount anywhere raced with it
			continue
		case err == unix.ENOSYS || err == unix.EPERM:
			t.noIn = true
			return t.walk(p, false)
		}
		return fd, err
	}
}

// walk opens the directory p one element at a time without letting the kernel
// follow links, so it can make what is missing, also behind a dangling link.
func (t *tree) walk(p string, create bool) (int, error) {
	w := walker{t: t, create: create, todo: strings.Split(p, "/")}
	defer w.closeAll()
	for len(w.todo) > 0 {
		elem := w.todo[0]
		w.todo = w.todo[1:]
		if err := w.step(elem); err != nil {
			return -1, err
		}
	}
	return unix.Openat(w.top(), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

type walker struct {
	t      *tree
	create bool
	todo   []string
	fds    []int
	names  []string
	links  int
}

func (w *walker) top() int {
	if len(w.fds) == 0 {
		return w.t.root
	}
	return w.fds[len(w.fds)-1]
}

func (w *walker) closeAll() {
	for _, fd := range w.fds {
		unix.Close(fd) // O_PATH: nothing can be lost by closing
	}
	w.fds, w.names = nil, nil
}

func (w *walker) step(elem string) error {
	switch elem {
	case "", ".":
		return nil
	case "..":
		w.pop()
		return nil
	}
	fd, err := unix.Openat(w.top(), elem, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) && w.create {
		fd, err = w.mkdir(elem)
	}
	if err != nil {
		return err
	}
	return w.enter(fd, elem)
}

func (w *walker) pop() {
	if n := len(w.fds); n > 0 {
		unix.Close(w.fds[n-1]) // O_PATH: nothing can be lost by closing
		w.fds, w.names = w.fds[:n-1], w.names[:n-1]
	}
}

func (w *walker) mkdir(elem string) (int, error) {
	if err := unix.Mkdirat(w.top(), elem, 0o755); err != nil {
		return -1, err
	}
	if err := unix.Fchmodat(w.top(), elem, 0o755, 0); err != nil { // whatever the umask
		return -1, err
	}
	if w.t.made != nil {
		w.t.made(strings.Join(append(append([]string{}, w.names...), elem), "/"))
	}
	return unix.Openat(w.top(), elem, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// enter descends into what fd is: a directory, or a link whose target is walked next.
func (w *walker) enter(fd int, elem string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		w.fds, w.names = append(w.fds, fd), append(w.names, elem)
		return nil
	case unix.S_IFLNK:
		target, err := readlinkFd(fd)
		unix.Close(fd) // O_PATH: nothing can be lost by closing
		if err != nil {
			return err
		}
		if w.links++; w.links > maxLinks {
			return unix.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			w.closeAll()
		}
		w.todo = append(strings.Split(target, "/"), w.todo...)
		return nil
	}
	unix.Close(fd) // O_PATH: nothing can be lost by closing
	return unix.ENOTDIR
}

func readlinkFd(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// realPath tells where in the tree the open directory is.
func (t *tree) realPath(fd int) (string, error) {
	p, err := fdPath(fd)
	if err != nil {
		return "", err
	}
	if p == t.rootPath {
		return "", nil
	}
	rel, ok := strings.CutPrefix(p, t.rootPath+"/")
	if !ok {
		return "", fmt.Errorf("%w: %q leads out of the layer", ErrArchive, p)
	}
	return rel, nil
}

func fdPath(fd int) (string, error) {
	p, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", fmt.Errorf("path of an open directory: %w", err)
	}
	return filepath.Clean(p), nil
}

// clean maps a name of an archive to a relative path inside the tree: it is taken
// as if the root were "/", so that no number of ".." leaves it. "" is the root.
func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}
