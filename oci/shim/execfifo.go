package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// The first process of a container waits at its exec fifo until the container is started.
// libcontainer lets it wait in open(2) for a reader, and writes a byte then. A shim that dies
// between its own open and that write makes the write fail with EPIPE: the container ends
// with 255 and has never run. Therefore the process itself keeps the fifo open for reading
// and writing, and has filled it: it waits in write(2), which can't fail. One read(2) of the
// shim starts the container, so a shim dies before the start or after it.

// holdFifo makes the first process of a container wait as described above. libcontainer's
// own code runs after it. If it fails, the process waits as libcontainer intends. An exec
// has no fifo.
func holdFifo() {
	number, err := strconv.Atoi(os.Getenv("_LIBCONTAINER_FIFOFD"))
	if err != nil {
		return
	}
	copied, err := unix.FcntlInt(uintptr(number), unix.F_DUPFD_CLOEXEC, 3) // libcontainer closes the number itself
	if err != nil {
		return
	}
	path := os.NewFile(uintptr(copied), "exec fifo") // O_PATH
	defer path.Close()
	fifo, err := pathrs.Reopen(path, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return
	}
	defer fifo.Close()
	held, err := unix.FcntlInt(fifo.Fd(), unix.F_DUPFD_CLOEXEC, 3) // stays open until the exec
	if err != nil {
		return
	}
	if err := fillPipe(held); err != nil {
		_ = unix.Close(held)
	}
}

// fillPipe writes to a pipe that does not block until nothing more fits. Its size is one
// page, or the size that it has if the kernel refuses that.
func fillPipe(fd int) error {
	page := make([]byte, os.Getpagesize())
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, len(page))
	for {
		if _, err := unix.Write(fd, page); err != nil {
			return unless(err, unix.EAGAIN)
		}
	}
}

// maxPipe is more than what fits into a fifo by default, 64 KiB (pipe(7)), in bytes.
const maxPipe = 1 << 20

// emptyFifo starts a container whose first process holds its fifo, and removes the fifo.
// held is false if nobody holds it: the process has executed its command already, has
// ended, or was created by a shim before [holdFifo].
func (d stateDir) emptyFifo(id string) (held bool, err error) {
	// This opening does not wake a process that waits for a reader.
	w, err := unix.Open(d.fifo(id), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, unless(err, unix.ENXIO, unix.ENOENT)
	}
	defer unix.Close(w) // so that a fifo without its process is not at its end, but empty
	r, err := unix.Open(d.fifo(id), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return true, fmt.Errorf("open exec fifo: %w", err)
	}
	defer unix.Close(r)
	buf := make([]byte, 64<<10)
	for range maxPipe / len(buf) { // a process that goes on may write again
		if _, err = unix.Read(r, buf); err != nil {
			break
		}
	}
	if err = unless(err, unix.EAGAIN); err != nil {
		return true, fmt.Errorf("read exec fifo: %w", err)
	}
	if err := os.Remove(d.fifo(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Error("fifo of a started container stays", "container", id, "error", err) // it was started all the same
	}
	return true, nil
}

// unless returns err, but nil if it is one of those that are expected.
func unless(err error, expected ...error) error {
	for _, e := range expected {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
