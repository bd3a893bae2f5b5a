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
	// ErrNotFound: no image of that name, here or in the registry.
	ErrNotFound = registry.ErrNotFound
	// ErrInvalidReference: the name can't be one; the text says what is wrong.
	ErrInvalidReference = registry.ErrInvalidReference
	// ErrUnauthorized: the registry wants credentials, or other ones.
	ErrUnauthorized = registry.ErrUnauthorized
	// ErrRegistryUnavailable: no host can be reached or serve now; the text lists them.
	ErrRegistryUnavailable = registry.ErrUnavailable
	// ErrRefused: the registry's answer is of no use, which is not the network's fault.
	ErrRefused = registry.ErrRefused
	// ErrSignature: the trust policy refuses the image. The text is what the kubelet
	// looks for.
	ErrSignature = errors.New("SignatureValidationFailed")
	// ErrNoSpace: the disk is full, a quota is reached, or the disk is read-only.
	ErrNoSpace = errors.New("no space to store the image")
	// ErrCorrupt: the image, as published or as stored, contradicts itself.
	ErrCorrupt = errors.New("image is corrupt")
)

// classify adds the sentinel for what the system or a lower package says.
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
