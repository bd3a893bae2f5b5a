package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
)

func TestAheadPassesOn(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 3*blocksAhead*blockSize/10)
	broken := errors.New("broken")
	for name, src := range map[string]struct {
		r    io.Reader
		want []byte
		err  error
	}{
		"empty":       {strings.NewReader(""), nil, io.EOF},
		"short":       {strings.NewReader("abc"), []byte("abc"), io.EOF},
		"many blocks": {bytes.NewReader(data), data, io.EOF},
		"small reads": {iotest.HalfReader(strings.NewReader("abcdef")), []byte("abcdef"), io.EOF},
		"data + EOF":  {iotest.DataErrReader(strings.NewReader("abc")), []byte("abc"), io.EOF},
		"breaks":      {io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)), []byte("abc"), broken},
	} {
		t.Run(name, func(t *testing.T) {
			a := NewAhead(src.r)
			got, err := io.ReadAll(struct{ io.Reader }{a}) // by Read, not WriteTo
			if errors.Is(src.err, io.EOF) && err != nil || !errors.Is(src.err, io.EOF) && !errors.Is(err, src.err) || !bytes.Equal(got, src.want) {
				t.Errorf("read %d bytes, %v, want %d, %v", len(got), err, len(src.want), src.err)
			}
			if n, err := a.Read(make([]byte, 1)); n != 0 || !errors.Is(err, src.err) {
				t.Errorf("a read after the end gave %d, %v, want 0, %v", n, err, src.err)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAheadWriteTo(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 2*blockSize+7)
	a := NewAhead(bytes.NewReader(data))
	defer a.Close()
	if n, err := a.Read(make([]byte, 5)); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	var b bytes.Buffer
	if n, err := a.WriteTo(&b); err != nil || n != int64(len(data)-5) || b.Len() != len(data)-5 {
		t.Errorf("wrote %d bytes, %v, want %d", n, err, len(data)-5)
	}
	full := NewAhead(bytes.NewReader(data))
	defer full.Close()
	pr, pw := io.Pipe()
	pr.Close()
	if _, err := full.WriteTo(pw); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a writer that fails gave %v", err)
	}
	broken := errors.New("broken")
	bad := NewAhead(iotest.ErrReader(broken))
	defer bad.Close()
	if _, err := bad.WriteTo(io.Discard); !errors.Is(err, broken) {
		t.Errorf("a source that fails gave %v", err)
	}
}

// TestAheadClose: a reader that gives up ends the goroutine, which is ahead of it.
func TestAheadClose(t *testing.T) {
	a := NewAhead(zeros{})
	if _, err := a.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-a.done:
	default:
		t.Error("the goroutine is still there")
	}
}

func TestDigester(t *testing.T) {
	const body = "hello"
	right, wrong := digest.FromString(body), digest.FromString("other")
	for name, c := range map[string]struct {
		want digest.Digest
		size int64
		err  error
	}{
		"right":         {right, 5, nil},
		"unknown size":  {right, -1, nil},
		"sha512":        {digest.SHA512.FromString(body), 5, nil},
		"wrong digest":  {wrong, 5, ErrArchive},
		"too long":      {right, 4, ErrArchive},
		"ends early":    {right, 6, io.ErrUnexpectedEOF},
		"empty is not":  {right, 0, ErrArchive},
		"another's sum": {digest.SHA512.FromString("x"), -1, ErrArchive},
	} {
		d, err := NewDigester(t.Context(), strings.NewReader(body), c.want, c.size, "blob x")
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(d)
		if c.err == nil && (err != nil || d.Size() != 5) || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, %d bytes, want %v", name, err, d.Size(), c.err)
		}
		if c.err != nil && !strings.Contains(err.Error(), "blob x") {
			t.Errorf("%s: %q does not name the stream", name, err)
		}
		if n, again := d.Read(make([]byte, 1)); n != 0 || c.err != nil && !errors.Is(again, c.err) {
			t.Errorf("%s: a read after the end gave %d, %v", name, n, again)
		}
	}
	for _, bad := range []digest.Digest{"", "sha256:x", digest.SHA384.FromString("x"), "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := NewDigester(t.Context(), nil, bad, -1, "blob"); !errors.Is(err, ErrArchive) {
			t.Errorf("digest %q gave %v, want ErrArchive", bad, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	d, err := NewDigester(ctx, zeros{}, right, -1, "blob")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(d); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled stream gave %v", err)
	}
}
