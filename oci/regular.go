package oci

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/oci/openat2"
)

// openRegular opens a file, found from the directory at as resolve says, if it is a
// regular one of at most so many bytes. Anything else is only looked at: to open a
// device or a FIFO may block, or do something.
func openRegular(at int, name string, resolve uint64, most int64) (*os.File, error) {
	fd, err := openat2.Open(at, name, unix.O_PATH|unix.O_CLOEXEC, resolve|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) // only a handle
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("it must be a regular file")
	}
	if st.Size > most {
		return nil, errTooLarge(most)
	}
	// The very file that was looked at, whatever has its name by now.
	return os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

func errTooLarge(most int64) error {
	return fmt.Errorf("it must have at most %d MiB", most>>20)
}
