package flock

import (
	"errors"
	"io/fs"
	"os"
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

// A lock on a directory leaves nothing in it, and makes none.
func TestLockOfADirectory(t *testing.T) {
	dir := t.TempDir()
	first, err := WaitDir(dir, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := WaitDir(dir, 10*time.Millisecond); !errors.Is(err, ErrLocked) {
		t.Errorf("the second gets %v, want ErrLocked", err)
	}
	_ = first.Close()
	second, err := WaitDir(dir, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("it has %v, %v", entries, err)
	}
	if _, err := WaitDir(filepath.Join(dir, "none"), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
