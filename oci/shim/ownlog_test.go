package shim

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestTheOwnLogIsBounded: it gets no larger than its bound, whoever writes to it, and says what is
// missing. The last line is there.
func TestTheOwnLogIsBounded(t *testing.T) {
	const most = 10 << 10
	path := filepath.Join(t.TempDir(), "log")
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	other := open() // of a shim that this one has replaced
	if _, err := other.Write(make([]byte, most)); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(boundLog(open(), most), nil))
	last := ""
	for i := range 1000 {
		last = fmt.Sprintf("line %d", i)
		log.Info(last)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > most {
			t.Fatalf("%d bytes after %s, want at most %d", info.Size(), last, most)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte("time=")) || !bytes.Contains(text, []byte("log was emptied")) || !bytes.Contains(text, []byte(last)) {
		t.Errorf("the log is %q, want that it was emptied and %s", text, last)
	}
}

// TestALogThatCannotBeEmptied: a file that is not appended to, of which only the beginning would
// go, and what is no file, are left alone.
func TestALogThatCannotBeEmptied(t *testing.T) {
	plain, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for name, f := range map[string]*os.File{"a file": plain, "a pipe": w} {
		if got := boundLog(f, 1); got != f {
			t.Errorf("%s is written by %T", name, got)
		}
	}
}
