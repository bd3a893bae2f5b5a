package failure

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// failure has the text of err and matches err and kind.
type failure struct{ err, kind error }

// New is fmt.Errorf for an error that also matches kind.
func New(kind error, format string, args ...any) error {
	return &failure{fmt.Errorf(format, args...), kind}
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() []error { return []error{f.err, f.kind} }

// shortages are what a host lacks for a while.
var shortages = []error{unix.EAGAIN, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.ENOSPC}

// IsShortage tells whether an error wraps one that says that the host lacks processes, memory,
// descriptors or space. What failed may work later as it is.
func IsShortage(err error) bool {
	return slices.ContainsFunc(shortages, func(s error) bool { return errors.Is(err, s) })
}
