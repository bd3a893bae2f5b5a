package fewfiles

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Limit lets the process open no file whose descriptor would be most or more, until the
// function that it returns is called, which may be repeated.
func Limit(t testing.TB, pid, most int) (enough func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(most), Max: was.Max}, nil); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &was, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// Spare is Limit for the test's own process, which may then open so many more.
func Spare(t testing.TB, more int) (enough func()) {
	t.Helper()
	var opened []*os.File
	for range more + 1 { // each gets the lowest descriptor that is free, open(2)
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		opened = append(opened, f)
	}
	defer func() {
		for _, f := range opened {
			_ = f.Close() // nothing was written
		}
	}()
	return Limit(t, os.Getpid(), int(opened[more].Fd()))
}
