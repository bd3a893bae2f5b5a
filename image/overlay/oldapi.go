package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"

	"berth/oci/thread"
)

// pageRoom is the number of bytes that the options of mount(2) may have: a page without the
// final zero byte.
const pageRoom = 4096 - 1

// mountOld mounts by mount(2). The layers are given as short symbolic links, relative to a
// directory that only the mounting thread has as its working directory.
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
	defer os.RemoveAll(dir) // it contains only links, which overlayfs has resolved
	opts := c.options()
	opts = append(opts, "lowerdir="+strings.Join(names, ":"))
	if c.Upper != "" {
		opts = append(opts, "upperdir="+c.Upper, "workdir="+c.Work)
	}
	data := label.FormatMountLabel(strings.Join(opts, ","), c.Label) // in quotes, as it has commas
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
			os.RemoveAll(dir) // it contains only links
			return "", nil, err
		}
		names = append(names, name)
	}
	return dir, names, nil
}

// inDir runs f on a thread of its own with the working directory dir.
func inDir(dir string, f func() error) (err error) {
	if dir == "" {
		return f()
	}
	thread.Run(func() {
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			err = os.NewSyscallError("unshare", err)
		} else if err = unix.Chdir(dir); err != nil {
			err = os.NewSyscallError("chdir", err)
		} else {
			err = f()
		}
	})
	return err
}
