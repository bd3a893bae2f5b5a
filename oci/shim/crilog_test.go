package shim

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testLog(t testing.TB) *logFile {
	t.Helper()
	l, err := openLog(logTarget{root: "", path: filepath.Join(t.TempDir(), "pod", "0.log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.close() })
	return l
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 5000, time.FixedZone("", 3600))

const stamp = "2026-01-02T11:00:00.000005000Z"

func TestLogLines(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for name, c := range map[string]struct {
		pieces []string
		want   string
	}{
		"nothing":          {nil, ""},
		"empty line":       {[]string{"\n"}, "F \n"},
		"lines":            {[]string{"a\nb\n"}, "F a\nF b\n"},
		"over pieces":      {[]string{"a", "b", "c\nd\n"}, "F abc\nF d\n"},
		"no newline":       {[]string{"a\nb"}, "F a\nP b\n"},
		"exact":            {[]string{x(maxLine) + "\n"}, "F " + x(maxLine) + "\n"},
		"exact, in pieces": {[]string{x(maxLine), "\n"}, "F " + x(maxLine) + "\n"},
		"one over":         {[]string{x(maxLine + 1), "\n"}, "P " + x(maxLine) + "\nF x\n"},
		"long":             {[]string{x(3*maxLine) + "\ny\n"}, "P " + x(maxLine) + "\nP " + x(maxLine) + "\nF " + x(maxLine) + "\nF y\n"},
		"long, no newline": {[]string{x(maxLine), "xy"}, "P " + x(maxLine) + "\nP xy\n"},
		"binary":           {[]string{"a\x00\xff\r\n"}, "F a\x00\xff\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			l := testLog(t)
			w := &lineWriter{stream: "stderr", log: l}
			for _, p := range c.pieces {
				w.write([]byte(p), noon)
			}
			w.end(noon)
			got, err := os.ReadFile(l.path)
			want := ""
			for line := range strings.Lines(c.want) {
				want += stamp + " stderr " + line
			}
			if err != nil || string(got) != want {
				t.Errorf("got %.200q, %v, want %.200q", got, err, want)
			}
			if w.pending != nil {
				t.Error("memory is kept")
			}
		})
	}
}

// TestLogAnyPieces cuts random text at random places: the text must come back,
// whatever the cuts.
func TestLogAnyPieces(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		text := make([]byte, r.IntN(300_000))
		for i := range text {
			text[i] = "abcdefg\n"[r.IntN(8)]
			if seed%2 == 0 && r.IntN(20) > 0 && text[i] == '\n' {
				text[i] = '.' // long lines
			}
		}
		l := testLog(t)
		w := &lineWriter{stream: "stdout", log: l}
		for rest := text; len(rest) > 0; {
			n := min(len(rest), 1+r.IntN(70_000))
			w.write(rest[:n], noon)
			rest = rest[n:]
		}
		w.end(noon)
		log, err := os.ReadFile(l.path)
		if err != nil {
			t.Fatal(err)
		}
		var back []byte
		for line := range bytes.Lines(log) {
			body := line[len(stamp)+len(" stdout F "):]
			if line[len(stamp)+len(" stdout ")] == 'P' {
				body = body[:len(body)-1]
			}
			back = append(back, body...)
		}
		if !bytes.Equal(back, text) {
			t.Fatalf("seed %d: %d bytes became %d", seed, len(text), len(back))
		}
	}
}

func TestLogPermissionsAndReopen(t *testing.T) {
	l := testLog(t)
	if info, err := os.Stat(l.path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	w := &lineWriter{stream: "stdout", log: l}
	w.write([]byte("one\nhalf"), noon)
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		t.Fatal(err)
	}
	w.write([]byte(" two\n"), noon)
	if err := l.reopen(); err != nil {
		t.Fatal(err)
	}
	w.write([]byte("three\n"), noon)
	old, _ := os.ReadFile(l.path + ".1")
	now, _ := os.ReadFile(l.path)
	if !strings.HasSuffix(string(old), " F half two\n") || !strings.HasSuffix(string(now), " F three\n") || bytes.Count(now, []byte("\n")) != 1 {
		t.Errorf("old %q, new %q", old, now)
	}
	if err := os.RemoveAll(filepath.Dir(l.path)); err != nil {
		t.Fatal(err)
	}
	if err := l.reopen(); err != nil {
		t.Errorf("directory gone: %v", err)
	}
}

// TestLogDiskFull writes to a file system of one page, which is full in the middle of a
// record. Only whole records stay in the log, and it grows again when there is room.
func TestLogDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	l, err := openLog(logTarget{root: "", path: filepath.Join(dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.close() })
	w := &lineWriter{stream: "stdout", log: l}
	var text strings.Builder
	for i := range 300 {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	w.write([]byte(text.String()), noon)
	got, err := os.ReadFile(l.path)
	if err != nil || len(got) == 0 || got[len(got)-1] != '\n' || l.dropped == 0 {
		t.Errorf("%d bytes, %v, %d dropped", len(got), err, l.dropped)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(got)), "\n") {
		if line != fmt.Sprintf("%s stdout F line %d", stamp, i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if err := os.Truncate(l.path, 0); err != nil {
		t.Fatal(err)
	}
	w.write([]byte("again\n"), noon)
	if got, err := os.ReadFile(l.path); err != nil || string(got) != stamp+" stdout F again\n" || l.dropped != 0 {
		t.Errorf("%q, %v, %d dropped", got, err, l.dropped)
	}
}

// TestSinkCutOff offers output to a client that has hung up.
func TestSinkCutOff(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	st := &stream{done: make(chan struct{})}
	k := st.attach(w, nil)
	_ = r.Close()
	st.take(-1, []byte("x"))
	<-k.over
	if len(st.sinks) != 0 {
		t.Error("the client that has gone is still there")
	}
	if _, err := k.file.WriteString("x"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("its file is open: %v", err)
	}
}

func BenchmarkLog(b *testing.B) {
	l := testLog(b)
	w := &lineWriter{stream: "stdout", log: l}
	piece := []byte(strings.Repeat("a line of some forty characters or so....\n", 1500))
	b.SetBytes(int64(len(piece)))
	b.ReportAllocs()
	for b.Loop() {
		w.write(piece, noon)
		if err := l.file.Truncate(0); err != nil {
			b.Fatal(err)
		}
	}
}
