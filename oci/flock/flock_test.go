package flock

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Try(path); !errors.Is(err, ErrLocked) || errors.Is(err, unix.EAGAIN) {
		t.Errorf("the second gets %v, want ErrLocked", err)
	}
	if _, err := Wait(path, 10*time.Millisecond); !errors.Is(err, ErrLocked) {
		t.Errorf("one who waited gets %v, want ErrLocked", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = first.Close() })
	third, err := Wait(path, 10*time.Second)
	if err != nil {
		t.Fatalf("after the first has closed: %v", err)
	}
	if err := third.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Try(filepath.Join(t.TempDir(), "none", "lock")); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("without a directory: %v", err)
	}
}
