package pause

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/oci/thread"
)

// emptyDir is the directory of the stage that becomes the root of pause processes. pause.c
// knows it as /empty.
const emptyDir = "empty"

// stage is a thread of this process in a mount namespace of its own, which has a read-only
// root with an empty directory, /proc, and no mount of the host. Pause processes are started
// by this thread, so that clone copies only these mounts. Copying those of the host would
// take longer with every pod of the node.
type stage struct {
	calls chan func()
	quit  chan struct{}
	// empty is a mount namespace with an empty read-only root and no other mount.
	empty *os.File
}

var errClosed = errors.New("the launcher of pauses is closed")

// newStage makes the thread and its mounts. They are built on dir, in another mount
// namespace, so that dir does not change.
func newStage(dir string) (*stage, error) {
	s := &stage{calls: make(chan func()), quit: make(chan struct{})}
	entered := make(chan error)
	thread.Go(func() {
		err := s.enter(dir)
		entered <- err
		if err == nil {
			s.serve()
		}
	})
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("mount namespace for pauses: %w", err)
	}
	return s, nil
}

func (s *stage) serve() {
	for {
		select {
		case call := <-s.calls:
			call()
		case <-s.quit:
			return
		}
	}
}

// do runs f on the stage's thread and waits for its end.
func (s *stage) do(f func()) error {
	done := make(chan struct{})
	select {
	case s.calls <- func() { defer close(done); f() }:
		<-done
		return nil
	case <-s.quit:
		return errClosed
	}
}

func (s *stage) close() error {
	close(s.quit)
	return s.empty.Close()
}

// enter moves the calling thread to the stage's mount namespace.
func (s *stage) enter(dir string) error {
	if err := enterBare(dir); err != nil {
		return err
	}
	own, err := os.Open(threadMounts)
	if err != nil {
		return err
	}
	defer own.Close()
	if s.empty, err = makeEmpty(); err != nil {
		return err
	}
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNS); err != nil {
		return errors.Join(fmt.Errorf("return to the stage's mounts: %w", err), s.empty.Close())
	}
	return nil
}

// threadMounts opens the mount namespace of the calling thread.
const threadMounts = "/proc/thread-self/ns/mnt"

// makeEmpty moves the thread to a new mount namespace where the empty directory is
// all there is, and returns the namespace.
func makeEmpty() (*os.File, error) {
	// Opened before: there is no /proc when the namespace is ready.
	namespaces, err := os.Open(filepath.Dir(threadMounts))
	if err != nil {
		return nil, err
	}
	defer namespaces.Close()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("/"+emptyDir, "/"+emptyDir, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("bind the empty directory: %w", err)
	}
	if err := thread.PivotRoot("/" + emptyDir); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(int(namespaces.Fd()), filepath.Base(threadMounts), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the empty mount namespace: %w", err)
	}
	return os.NewFile(uintptr(fd), "empty"), nil
}

// enterBare moves the calling thread to a new mount namespace with the stage's
// mounts. The file system is a tmpfs that is read-only as a whole: no mount of it
// can be made writable again.
func enterBare(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	// Nothing that follows may propagate to the host, whose mounts are usually shared.
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make all mounts private: %w", err)
	}
	const flags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount("pause", dir, "tmpfs", flags, "mode=0555,size=4k,nr_inodes=4"); err != nil {
		return fmt.Errorf("mount an empty root: %w", err)
	}
	proc := filepath.Join(dir, "proc")
	if err := errors.Join(os.Mkdir(proc, 0o555), os.Mkdir(filepath.Join(dir, emptyDir), 0o555)); err != nil {
		return err
	}
	if err := unix.Mount("/proc", proc, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind /proc: %w", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY|flags, ""); err != nil {
		return fmt.Errorf("make the empty root read-only: %w", err)
	}
	return thread.PivotRoot(dir)
}
