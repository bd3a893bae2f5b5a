package memfd

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Sealed copies a program to a memfd with the given permissions and seals it. name is
// what /proc shows. The caller closes the file.
func Sealed(name string, program io.Reader, mode os.FileMode) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, where every memfd is executable
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd for %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = io.Copy(f, program)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = seal(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("memfd for %s: %w", name, err), f.Close())
	}
	return f, nil
}

// maxTries is how often a memfd is sealed. In each the kernel itself waits for a fraction of a
// second.
const maxTries = 10

// seal makes a memfd unchangeable. The kernel answers EBUSY while somebody else holds a page
// of it, since that may be to write to it (memfd_wait_for_pins in mm/memfd.c); what moves
// pages about for a moment, such as compaction, looks the same.
func seal(f *os.File) error {
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	var err error
	for range maxTries {
		if _, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}
