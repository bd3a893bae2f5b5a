package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"

	"berth/image"
	"berth/sandbox"
	"berth/sandbox/inflight"
)

// maxMessage is the longest error text sent, in bytes; it travels in a header.
const maxMessage = 4 << 10

// codeTable maps what the domain says to what gRPC says; the first match counts.
// Anything else is Unknown: above all a bare fs.ErrNotExist, which a client
// would take for "that container is gone" were it NotFound.
//
// Those of a failed pull are Unknown because of [kubeletWords]: cri-client strips
// that code alone from the text.
var codeTable = []struct {
	err  error
	code codes.Code
}{
	{inflight.ErrStopping, codes.Unavailable},
	{inflight.ErrBusy, codes.Aborted},
	{inflight.ErrPanicked, codes.Internal},
	{image.ErrRegistryUnavailable, codes.Unknown},
	{image.ErrSignature, codes.Unknown},
	{image.ErrInvalidReference, codes.InvalidArgument},
	{image.ErrUnauthorized, codes.PermissionDenied},
	{image.ErrNoSpace, codes.ResourceExhausted},
	{unix.ENOSPC, codes.ResourceExhausted},
	{unix.EDQUOT, codes.ResourceExhausted},
	{image.ErrCorrupt, codes.DataLoss},
	{sandbox.ErrInvalid, codes.InvalidArgument},
	{sandbox.ErrExists, codes.AlreadyExists},
	{sandbox.ErrState, codes.FailedPrecondition},
	{sandbox.ErrUnsupported, codes.FailedPrecondition},
	{sandbox.ErrNotReady, codes.Unavailable},
	{sandbox.ErrTimeout, codes.DeadlineExceeded},
	{sandbox.ErrNotFound, codes.NotFound},
	{image.ErrNotFound, codes.NotFound},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

// kubeletWords are what the kubelet recognizes an error by, at the beginning of its
// text (k8s.io/cri-api/pkg/errors).
var kubeletWords = []struct{ err, word error }{
	{image.ErrRegistryUnavailable, crierrors.ErrRegistryUnavailable},
	{image.ErrSignature, crierrors.ErrSignatureValidationFailed},
	{sandbox.ErrImageVolume, crierrors.ErrImageVolumeMountFailed}, // counted in a metric
}

// toStatus is what the client gets to see of err.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	for _, row := range codeTable {
		if errors.Is(err, row.err) {
			return status.Error(row.code, message(err))
		}
	}
	return status.Error(codes.Unknown, message(err))
}

func message(err error) string {
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	for _, row := range kubeletWords {
		if word := row.word.Error(); errors.Is(err, row.err) && !strings.HasPrefix(text, word) {
			text = word + ": " + text
		}
	}
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

// invalid is a request that can never succeed; the text says what to change.
func invalid(format string, args ...any) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf(format, args...))
}

func notImplemented(what string) error {
	return status.Error(codes.Unimplemented, what)
}
