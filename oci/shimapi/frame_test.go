package shimapi

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/test/fewfiles"
)

func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return conns[0], conns[1]
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A frame whose files can't be received for want of descriptors says so: it is none too many.
func TestFrameWithoutDescriptors(t *testing.T) {
	a, b := pair(t)
	if err := WriteFrame(a, Request{Method: MethodList}, os.Stdin); err != nil {
		t.Fatal(err)
	}
	enough := fewfiles.Spare(t, 0)
	var got Request
	_, err := ReadFrame(b, &got)
	if enough(); !errors.Is(err, unix.EMFILE) || errors.Is(err, ErrFrame) {
		t.Errorf("got %v, want EMFILE", err)
	}
}

func TestFrameCarriesFiles(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sent := make(chan error, 1)
	want := Request{Method: MethodList, Body: []byte(`"` + strings.Repeat("x", 1<<20) + `"`)}
	go func() { sent <- WriteFrame(a, want, w, w) }()
	var got Request
	files, err := ReadFrame(b, &got)
	if err != nil || got.Method != want.Method || string(got.Body) != string(want.Body) || len(files) != 2 {
		t.Fatalf("method %q, %d bytes, %d files, %v", got.Method, len(got.Body), len(files), err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if _, err := files[1].WriteString("through"); err != nil {
		t.Fatal(err)
	}
	CloseFiles(append(files, w))
	if data, err := io.ReadAll(r); err != nil || string(data) != "through" {
		t.Fatalf("%q, %v", data, err)
	}
	if err := WriteFrame(a, want, r, r, r, r, r); !errors.Is(err, ErrFrame) {
		t.Errorf("five files: %v", err)
	}
}

func TestFrameEndsInOrder(t *testing.T) {
	a, b := pair(t)
	for i := range 3 {
		if err := WriteFrame(a, i); err != nil {
			t.Fatal(err)
		}
	}
	_ = a.Close()
	for i := range 3 {
		var got int
		if _, err := ReadFrame(b, &got); err != nil || got != i {
			t.Fatalf("%d, %v", got, err)
		}
	}
	if _, err := ReadFrame(b, new(int)); !errors.Is(err, io.EOF) {
		t.Fatalf("after the end: %v", err)
	}
}

func TestHostileFrames(t *testing.T) {
	size := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	for name, text := range map[string]string{
		"oversized":       size(MaxFrame+1) + "{}",
		"largest size":    size(1<<32-1) + "{}",
		"cut in header":   "\x00\x00",
		"cut in body":     size(10) + "{}",
		"no JSON":         size(3) + "abc",
		"other type":      size(2) + `[]`,
		"empty":           size(0),
		"announced, none": size(MaxFrame),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			before := openFiles(t)
			if err := send(a, []byte(text), []*os.File{os.Stderr}); err != nil {
				t.Fatal(err)
			}
			_ = a.CloseWrite()
			var ms0, ms1 runtime.MemStats
			runtime.ReadMemStats(&ms0)
			var r Request
			files, err := ReadFrame(b, &r)
			runtime.ReadMemStats(&ms1)
			if err == nil || files != nil {
				t.Errorf("accepted: %+v, %v", r, files)
			}
			if grown := ms1.TotalAlloc - ms0.TotalAlloc; grown > 1<<20 {
				t.Errorf("took %d bytes of memory", grown)
			}
			if after := openFiles(t); after != before {
				t.Errorf("files before %d, after %d", before, after)
			}
		})
	}
}

func TestTooManyFilesReceived(t *testing.T) {
	a, b := pair(t)
	before := openFiles(t)
	many := make([]*os.File, 20)
	for i := range many {
		many[i] = os.Stderr
	}
	if err := send(a, []byte("\x00\x00\x00\x02{}"), many); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFrame(b, new(Request)); !errors.Is(err, ErrFrame) {
		t.Errorf("accepted: %v", err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("files before %d, after %d", before, after)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x0f{\"method\":\"x\"}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return
		}
		a, b := pair(t)
		if len(data) > 0 {
			if _, err := a.Write(data); err != nil {
				t.Fatal(err)
			}
		}
		_ = a.Close()
		for {
			if _, err := ReadFrame(b, new(Request)); err != nil {
				return
			}
		}
	})
}
