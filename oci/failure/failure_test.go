package failure

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

var errKind = errors.New("kind")

func TestAKindIsMatchedAndNotPrinted(t *testing.T) {
	cause := &fs.PathError{Op: "open", Path: "/x", Err: fs.ErrNotExist}
	err := fmt.Errorf("mount: %w", New(errKind, "the file %s is missing: %w", "x", cause))
	if got, want := err.Error(), "mount: the file x is missing: open /x: file does not exist"; got != want {
		t.Errorf("the text is %q, want %q", got, want)
	}
	if !errors.Is(err, errKind) || !errors.Is(err, fs.ErrNotExist) {
		t.Error("it does not match its kind or its cause")
	}
	if got, ok := errors.AsType[*fs.PathError](err); !ok || got != cause {
		t.Errorf("it wraps %v, want its cause", got)
	}
	if errors.Is(New(errKind, "x"), fs.ErrNotExist) {
		t.Error("it matches what it does not wrap")
	}
}

func TestAShortageIsToldFromALastingFault(t *testing.T) {
	for err, want := range map[error]bool{
		unix.EMFILE: true, unix.EAGAIN: true, unix.ENOSPC: true,
		fs.ErrNotExist: false, unix.EIO: false, errKind: false,
	} {
		if got := IsShortage(fmt.Errorf("open: %w", err)); got != want {
			t.Errorf("%v: a shortage is %v, want %v", err, got, want)
		}
	}
}
