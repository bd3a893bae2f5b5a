package image

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"berth/image/layer"
	"berth/image/registry"
)

// The errors the store's methods wrap.
var (
	// ErrNotFound: there is no image of that name in the store, or in the registry.
	ErrNotFound = registry.ErrNotFound
	// ErrInvalidReference: the name of an image is malformed; the text says how.
	ErrInvalidReference = registry.ErrInvalidReference
	// ErrUnauthorized: the registry requires credentials, or refuses those it got.
	ErrUnauthorized = registry.ErrUnauthorized
	// ErrRegistryUnavailable: no host of the registry can be reached, or none can serve at
	// present; the text lists the hosts.
	ErrRegistryUnavailable = registry.ErrUnavailable
	// ErrRefused: the registry answered, but refused the request or sent unusable content.
	ErrRefused = registry.ErrRefused
	// ErrSignature: the trust policy refuses the image. The kubelet looks for this text.
	ErrSignature = errors.New("SignatureValidationFailed")
	// ErrNoSpace: the disk is full, a quota is reached, or the disk is read-only.
	ErrNoSpace = errors.New("no space to store the image")
	// ErrCorrupt: the image, as published or as stored, is inconsistent.
	ErrCorrupt = errors.New("image is corrupt")
)

// classify wraps an error of the system or of a lower package in the sentinel of its kind.
func classify(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrNoSpace), errors.Is(err, ErrCorrupt):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w; remove images or grow the disk", ErrNoSpace, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %w; the disk is read-only, see the kernel log", ErrNoSpace, err)
	case errors.Is(err, layer.ErrArchive), errors.Is(err, layer.ErrDamaged):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
