package sandbox

import (
	"errors"

	"berth/oci"
	"berth/oci/failure"
	"berth/oci/shimapi"
	"berth/oci/shims"
)

// The errors a verb may wrap; package cri maps each to one gRPC code.
var (
	// ErrNotFound: no pod sandbox or container has that ID or prefix.
	ErrNotFound = errors.New("not found")
	// ErrInvalid: the request can never succeed as it is; the text says what to change.
	ErrInvalid = errors.New("invalid")
	// ErrState: the verb does not apply in the present state.
	ErrState = errors.New("wrong state")
	// ErrExists: a pod sandbox or container of that name exists and is in use.
	ErrExists = errors.New("exists")
	// ErrNotReady: the node lacks something for now (network not configured, shim starting).
	ErrNotReady = errors.New("not ready")
	// ErrTimeout: the process in the container did not end in the time given; it was killed.
	ErrTimeout = errors.New("timed out")
	// ErrUnsupported: this host can't do what was asked (no AppArmor, no user namespaces).
	ErrUnsupported = errors.New("not supported on this host")
	// ErrImageVolume: an image that a container wants as a volume can't be mounted. The error
	// wraps another of these, which says why.
	ErrImageVolume = errors.New("image volume")
)

// asDomain gives a refusal of the shim or the spec builder the error of this
// package that fits.
func asDomain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, oci.ErrUnsupported):
		return failed(ErrUnsupported, "%w", err)
	case errors.Is(err, oci.ErrInvalid), isKind(err, shimapi.KindStartFailed), isKind(err, shimapi.KindInvalid):
		return failed(ErrInvalid, "%w", err)
	case isKind(err, shimapi.KindNotRunning):
		return failed(ErrState, "%w", err)
	case isKind(err, shimapi.KindNotFound):
		return failed(ErrNotFound, "%w", err)
	case errors.Is(err, shims.ErrGone), errors.Is(err, shims.ErrDelayed): // while another takes over
		return failed(ErrNotReady, "%w; try again", err)
	default:
		return err
	}
}

func isKind(err error, k shimapi.Kind) bool {
	var e *shimapi.Error
	return errors.As(err, &e) && e.Kind == k
}

// failed makes an error that matches one of the errors above and does not print it. The
// format is as that of fmt.Errorf.
func failed(kind error, format string, args ...any) error {
	return failure.New(kind, format, args...)
}
