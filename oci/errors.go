package oci

import (
	"errors"
	"fmt"
)

var (
	// ErrInvalid: the configuration can never work as it is; the text names the
	// field and says what to change.
	ErrInvalid = errors.New("invalid configuration")
	// ErrUnsupported: the configuration is well-formed but this host can't do it.
	ErrUnsupported = errors.New("not supported on this host")
)

// failure is an error whose text is err's alone and that also matches kind, one of the
// errors above: they are to be matched, not read.
type failure struct{ err, kind error }

// Error implements error.
func (f *failure) Error() string { return f.err.Error() }

// Unwrap is for [errors.Is].
func (f *failure) Unwrap() []error { return []error{f.err, f.kind} }

// invalid makes an error that wraps [ErrInvalid]. The format is as that of fmt.Errorf.
func invalid(format string, args ...any) error {
	return &failure{fmt.Errorf(format, args...), ErrInvalid}
}

// unsupported makes an error that wraps [ErrUnsupported].
func unsupported(format string, args ...any) error {
	return &failure{fmt.Errorf(format, args...), ErrUnsupported}
}
