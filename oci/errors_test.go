package oci

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/test/fewfiles"
)

// TestAShortageIsNotInvalid: an image's /etc/passwd that can't be opened for want of
// descriptors says nothing about the image, and the call may be repeated.
func TestAShortageIsNotInvalid(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(root, "etc"), 0o755), os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("a:x:1:1::/:\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	enough := fewfiles.Spare(t, 1) // for the container's root
	_, _, err := openAccounts(root)
	enough()
	if !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "etc/passwd") || errors.Is(err, ErrInvalid) {
		t.Errorf("without descriptors it fails with %v, invalid: %v", err, errors.Is(err, ErrInvalid))
	}
	if err := invalid("port %d: use 1 to 65535", 0); !errors.Is(err, ErrInvalid) || err.Error() != "port 0: use 1 to 65535" {
		t.Errorf("another is %v", err)
	}
}
