package oci

import (
	"errors"

	"berth/oci/failure"
)

var (
	// ErrInvalid: the configuration can never work as it is; the text names the
	// field and says what to change.
	ErrInvalid = errors.New("invalid configuration")
	// ErrUnsupported: the configuration is well-formed but this host can't do it.
	ErrUnsupported = errors.New("not supported on this host")
)

// invalid makes an error that matches [ErrInvalid]. The format is as that of fmt.Errorf.
func invalid(format string, args ...any) error { return failure.New(ErrInvalid, format, args...) }

// unsupported makes an error that matches [ErrUnsupported].
func unsupported(format string, args ...any) error {
	return failure.New(ErrUnsupported, format, args...)
}
