package explain

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/openat2"
)

// What is read of one file at most, in bytes. The kernel and the daemon write less;
// a workload that makes a file longer (sockets, mounts, threads) has its rest unread.
const (
	recordBytes = 64 << 20 // a record: the client's configuration and the spec made of it
	procBytes   = 4 << 20  // of /proc and cgroups
	tableBytes  = 32 << 20 // a process's mounts
	resolvBytes = 64 << 10
)

// patience is how long a file system is waited for that may belong to a workload or
// to a machine that does not answer: FUSE, NFS.
const patience = 5 * time.Second

// errLate is the end of patience.
var errLate = fmt.Errorf("the file system has not answered for %s: see whether its server runs", patience)

// errNotRegular is a file that is a link, a pipe, a device or a directory.
var errNotRegular = errors.New("it is not a regular file, and something else is not opened: look at it with ls")

// openFile opens a regular file for reading. The directories of base are the
// machine's own, with links as its operator made them; no link is followed below
// it, where a workload may have put one that leads to a file of the machine. The file
// is looked at before it is opened: opening a pipe blocks, and a device may act.
func openFile(base, name string) (*os.File, error) {
	path := filepath.Join(base, name)
	dir, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: base, Err: err}
	}
	defer unix.Close(dir)
	fd, err := openat2.Open(dir, name, unix.O_PATH|unix.O_CLOEXEC, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
	if errors.Is(err, unix.ELOOP) {
		return nil, &os.PathError{Op: "open", Path: path, Err: fmt.Errorf("it is behind a symbolic link, which is not followed: %w", errNotRegular)}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &os.PathError{Op: "open", Path: path, Err: errNotRegular}
	}
	// The same file again, now to be read; the link of /proc is this process's own.
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.Unwrap(err)}
	}
	return f, nil
}

// readFile reads no more than most bytes of a file of openFile, and tells of more
// by an error beside them.
func readFile(base, name string, most int64) ([]byte, error) {
	f, err := openFile(base, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readSome(f, most)
}

// readKernel is readFile of a file that the kernel gives: of /proc or a cgroup.
func readKernel(path string) ([]byte, error) {
	return readFile(filepath.Dir(path), filepath.Base(path), procBytes)
}

func readSome(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if int64(len(b)) > most {
		b, err = b[:most], fmt.Errorf("it is longer than %s, and the rest was not read", Bytes(uint64(most)))
	}
	return b, err
}

// ownDirs is how many directories from the root on are taken for the machine's own:
// /var/log may well be a link that its operator made. Below them, where pods have
// their directories, a workload that mounts the logs of its node can replace any.
const ownDirs = 2

// splitOwn divides an absolute path into the machine's own directories and the rest.
func splitOwn(path string) (base, name string) {
	parts := strings.SplitAfterN(strings.TrimPrefix(filepath.Clean(path), "/"), "/", ownDirs+1)
	last := len(parts) - 1
	return "/" + strings.Join(parts[:last], ""), parts[last]
}

// inTime gives what look finds, or an error after patience. What look still waits
// for is left behind; the program ends without it.
func inTime[T any](look func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		value, err := look()
		done <- answer{value, err}
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case a := <-done:
		return a.value, a.err
	case <-late.C:
		var none T
		return none, errLate
	}
}
