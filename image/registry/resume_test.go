package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestResume cuts and stalls the connection in the middle of a blob.
func TestResume(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges=%v", ranges), func(t *testing.T) {
			var count atomic.Int64
			release := make(chan struct{})
			defer close(release)
			f := newFake(t, nil)
			f.hook = func(w http.ResponseWriter, r *http.Request) bool {
				n := int(count.Add(1))
				if n > 3 {
					if ranges {
						return false
					}
					w.Write(blobData)
					return true
				}
				start := 0
				if rng := r.Header.Get("Range"); rng != "" && ranges {
					fmt.Sscanf(rng, "bytes=%d-", &start)
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(blobData)-1, len(blobData)))
					w.Header().Set("Content-Length", fmt.Sprint(len(blobData)-start))
					w.WriteHeader(http.StatusPartialContent)
				} else {
					w.Header().Set("Content-Length", fmt.Sprint(len(blobData)))
				}
				w.Write(blobData[start : start+(n+1)*200_000-start])
				w.(http.Flusher).Flush()
				if n == 2 {
					<-release
				}
				panic(http.ErrAbortHandler)
			}
			c := client(t, fmt.Sprintf("server = %q", f.URL), nil)
			c.opts.Timeout = 300 * time.Millisecond
			if err := readBlob(t, repo(t, c, "busybox", nil)); err != nil {
				t.Fatal(err)
			}
			if n := count.Load(); n != 4 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestRanges has a blob come in parts, with hosts that fail now and then.
func TestRanges(t *testing.T) {
	data := make([]byte, 40<<20+12345)
	for i := range data {
		data[i] = byte(i >> 9 * 7)
	}
	d := digest.FromBytes(data)
	var parts atomic.Int64
	f := newFake(t, nil)
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") != "" {
			switch n := parts.Add(1); {
			case n%5 == 0:
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			case n%7 == 0:
				var first, last int
				fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(data)))
				w.Header().Set("Content-Length", fmt.Sprint(last-first+1))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(data[first : first+1000])
				panic(http.ErrAbortHandler)
			case n == 23: // and from here on the host ignores ranges
				http.ServeContent(w, &http.Request{Method: http.MethodGet}, "", time.Time{}, bytes.NewReader(data))
				return true
			}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		return true
	}
	c := client(t, fmt.Sprintf("server = %q", f.URL), nil)
	c.opts.slowRate = 1 << 60
	r := repo(t, c, "busybox", nil)
	b, err := r.Blob(t.Context(), ocispec.Descriptor{Digest: d, Size: int64(len(data))})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	b.Close()
	if parts.Load() < 18 {
		t.Errorf("%d parts", parts.Load())
	}
	for _, n := range []int64{0, 5 << 20, 20 << 20} { // given up early
		b, err := r.Blob(t.Context(), ocispec.Descriptor{Digest: d, Size: int64(len(data))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, b, n); err != nil {
			t.Error(err)
		}
		b.Close()
	}
	if len(c.parts) != 0 {
		t.Errorf("%d parts are still counted", len(c.parts))
	}
}
