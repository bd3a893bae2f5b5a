package memfd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSealed(t *testing.T) {
	f, err := Sealed("script", strings.NewReader("#!/bin/sh\nexit 7\n"), 0o555)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("a write gives %v, want EPERM", err)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("a truncation gives %v, want EPERM", err)
	}
	var ended *exec.ExitError
	err = exec.Command(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())).Run()
	if !errors.As(err, &ended) || ended.ExitCode() != 7 {
		t.Errorf("executing the copy gives %v, want exit status 7", err)
	}
}

// Somebody else holds a page of the memfd for longer than the kernel waits in one call, as a
// pipe does that the page was spliced into.
func TestSealWaitsForPages(t *testing.T) {
	fd, err := unix.MemfdCreate("pinned", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pinned")
	defer f.Close()
	if _, err := f.Write(make([]byte, os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	page, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	page[0] = 1
	if _, err := unix.Vmsplice(int(w.Fd()), []unix.Iovec{{Base: &page[0], Len: uint64(len(page))}}, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Munmap(page); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("sealed with a page in a pipe: %v, want EBUSY", err)
	}
	release := time.AfterFunc(300*time.Millisecond, func() { _, _ = r.Read(make([]byte, os.Getpagesize())) })
	defer release.Stop()
	if err := seal(f); err != nil {
		t.Errorf("once the pipe is read: %v", err)
	}
}
