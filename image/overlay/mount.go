package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Config describes one overlay mount.
type Config struct {
	Lower  []string // directories, topmost first; at least one
	Target string   // must exist
	// Upper and Work are overlayfs's upperdir and workdir, or "" for a read-only mount. They
	// must exist, on one filesystem.
	Upper, Work string
	// UserNS, if not nil, is a user namespace whose ID mapping is applied to the lower
	// directories: files of root in them become files of the namespace's root.
	UserNS *os.File
	// Label, when not "", is the SELinux label that all files of the mount show, whatever
	// those below have (mount option context).
	Label string
	// Links is the directory for the short symbolic links that a kernel before 6.7 needs;
	// "" is the directory for temporary files.
	Links string

	extra []string // further overlayfs options, for tests
}

// Mount mounts c at its target.
func Mount(c Config) error {
	if len(c.Lower) == 0 {
		return errors.New("overlay: no lower directory")
	}
	if c.Upper != "" {
		if err := os.RemoveAll(filepath.Join(c.Work, "work", "incompat")); err != nil {
			return fmt.Errorf("overlay: clear the work directory: %w", err)
		}
	}
	lowers, closeLowers, err := c.openLowers()
	if err != nil {
		return err
	}
	defer closeLowers()
	err = c.mountNew(lowers)
	if errors.Is(err, errNoAPI) {
		err = c.mountOld(lowers)
	}
	err = errors.Join(err, detachSpots(c.Target))
	if err != nil {
		return fmt.Errorf("mount overlay at %s: %w", c.Target, err)
	}
	return nil
}

// errNoAPI is returned when this kernel's overlayfs does not take its layers one by one.
var errNoAPI = errors.New("the kernel lacks the mount interface needed (Linux 6.7)")

// mountNew mounts by the new mount API: fsopen(2), fsconfig(2), fsmount(2), move_mount(2).
func (c *Config) mountNew(lowers []lower) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			return errNoAPI
		}
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs) // the error says nothing about data
	if err := c.configure(fs, lowers); err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return explain(fs, "create", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return explain(fs, "fsmount", err)
	}
	defer unix.Close(mnt) // if it is not attached by then, it is to be dropped
	return os.NewSyscallError("move_mount", unix.MoveMount(mnt, "", unix.AT_FDCWD, c.Target, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

func (c *Config) configure(fs int, lowers []lower) error {
	if err := setOption(fs, "source=berth"); err != nil {
		return err
	}
	for i, l := range lowers {
		err := lowers[i].add(fs, spot(c.Target, i))
		if err != nil && i == 0 && errors.Is(err, unix.EINVAL) {
			return errNoAPI
		}
		if err != nil {
			return explain(fs, "lowerdir+="+l.path, err)
		}
	}
	if c.Upper != "" {
		if err := errors.Join(setOption(fs, "upperdir="+c.Upper), setOption(fs, "workdir="+c.Work)); err != nil {
			return err
		}
	}
	options := c.options()
	if c.Label != "" {
		options = append(options, "context="+c.Label)
	}
	for _, o := range options {
		if err := setOption(fs, o); err != nil {
			return err
		}
	}
	return nil
}

// setOption sets an option of the form KEY=VALUE, or a flag, of a filesystem context.
func setOption(fs int, o string) error {
	key, value, ok := strings.Cut(o, "=")
	var err error
	if ok {
		err = unix.FsconfigSetString(fs, key, value)
	} else {
		err = unix.FsconfigSetFlag(fs, key)
	}
	if err != nil {
		return explain(fs, o, err)
	}
	return nil
}

// options returns the options of overlayfs. With index=off a hard link becomes a separate
// file when it is copied up, as with other runtimes, and the upper directory can be removed
// with rm.
func (c *Config) options() []string {
	out := []string{"index=off"}
	if c.Upper != "" {
		out = append(out, "volatile")
	}
	return append(out, c.extra...)
}

// explain adds the kernel's messages about this filesystem context to the error.
func explain(fs int, what string, err error) error {
	buf := make([]byte, 4096)
	var said []string
	for {
		n, rerr := unix.Read(fs, buf)
		if rerr != nil || n <= 0 {
			break
		}
		said = append(said, strings.TrimSpace(string(buf[:n])))
	}
	if len(said) > 0 {
		return fmt.Errorf("%.300s: %w (%s)", what, err, strings.Join(said, "; "))
	}
	return fmt.Errorf("%.300s: %w", what, err)
}

// Unmount detaches (MNT_DETACH) the mount at target, and the clones that an interrupted
// Mount has left. It is no error if there are none.
func Unmount(target string) error {
	return errors.Join(detach(target), detachSpots(target))
}

func detach(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "unmount", Path: target, Err: err}
}
