package memfd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

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
