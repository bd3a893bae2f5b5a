package oci

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"berth/oci/failure"
)

var (
	// ErrInvalid: the configuration can never work as it is; the text names the
	// field and says what to change.
	ErrInvalid = errors.New("invalid configuration")
	// ErrUnsupported: the configuration is well-formed but this host can't do it.
	ErrUnsupported = errors.New("not supported on this host")
)

// invalid makes an error that matches [ErrInvalid], unless it wraps a fault of the host, such
// as a shortage, after which the same configuration works. The format is as that of fmt.Errorf.
func invalid(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if failure.IsShortage(err) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.EIO) {
		return err
	}
	return failure.New(ErrInvalid, "%w", err)
}

// unsupported makes an error that matches [ErrUnsupported].
func unsupported(format string, args ...any) error {
	return failure.New(ErrUnsupported, format, args...)
}
