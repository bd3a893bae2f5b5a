package openat2

import "golang.org/x/sys/unix"

// maxTries is how often a path is resolved while renames get in the way. Each takes
// microseconds.
const maxTries = 512

// Open opens name from the directory at, with O_ flags and RESOLVE_ flags, and returns the
// descriptor. The error is an errno: EAGAIN after too many tries.
func Open(at int, name string, flags, resolve uint64) (fd int, err error) {
	how := unix.OpenHow{Flags: flags, Resolve: resolve}
	for range maxTries {
		fd, err = unix.Openat2(at, name, &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
	return -1, err
}
