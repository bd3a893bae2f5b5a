package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pageRoom is what mount(2) takes of options: one page.
const pageRoom = 4096 - 1

// mountOld uses mount(2): the layers are named by short links in a directory that
// is the working directory of just the thread that mounts.
func (c *Config) mountOld(lowers []lower) error {
	paths := make([]string, len(lowers))
	for i := range lowers {
		paths[i] = lowers[i].path
		if lowers[i].fd >= 0 {
			paths[i] = spot(c.Target, i)
			if err := lowers[i].attach(paths[i]); err != nil {
				return err
			}
		}
	}
	dir, names, err := c.makeLinks(paths)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // links only; overlayfs has resolved them
	opts := c.options()
	opts = append(opts, "lowerdir="+strings.Join(names, ":"))
	if c.Upper != "" {
		opts = append(opts, "upperdir="+c.Upper, "workdir="+c.Work)
	}
	data := strings.Join(opts, ",")
	if len(data) > pageRoom {
		return fmt.Errorf("the names of %d layers do not fit mount(2); Linux 6.7 or later has no such limit", len(lowers))
	}
	target, err := filepath.Abs(c.Target)
	if err != nil {
		return err
	}
	return inDir(dir, func() error {
		return os.NewSyscallError("mount", unix.Mount("berth", target, "overlay", 0, data))
	})
}

func (c *Config) makeLinks(paths []string) (dir string, names []string, err error) {
	dir, err = os.MkdirTemp(c.Links, "l")
	if err != nil {
		return "", nil, err
	}
	for i, p := range paths {
		name := strconv.FormatInt(int64(i), 36)
		if err := os.Symlink(p, filepath.Join(dir, name)); err != nil {
			os.RemoveAll(dir) // links only
			return "", nil, err
		}
		names = append(names, name)
	}
	return dir, names, nil
}

// inDir runs f on a thread whose working directory is dir and which ends after it.
func inDir(dir string, f func() error) error {
	if dir == "" {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread goes with the goroutine
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			result <- os.NewSyscallError("unshare", err)
			return
		}
		if err := unix.Chdir(dir); err != nil {
			result <- os.NewSyscallError("chdir", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// onThread runs f on one thread that ends after it.
func onThread(f func()) {
	runtime.LockOSThread() // never unlocked: the thread goes with the goroutine
	f()
}
