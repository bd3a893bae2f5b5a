package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/image/layer"
)

// Usage is what the store takes of its file system.
type Usage struct {
	Path   string // the directory that says which file system it is
	Bytes  uint64 // allocated, as du counts
	Inodes uint64
}

// Usage adds up all layers, each once, and the records: what du says of images/ and
// layers/ while nothing is being pulled.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	u := Usage{Path: s.opts.Root}
	s.mu.Lock()
	var unknown []string
	for c, info := range s.layers {
		if !info.known {
			unknown = append(unknown, c)
		}
		u.Bytes, u.Inodes = u.Bytes+info.bytes, u.Inodes+info.inodes
	}
	s.mu.Unlock()
	for _, c := range unknown {
		if ctx.Err() != nil {
			return u, context.Cause(ctx)
		}
		bytes, inodes, err := s.measure(ctx, c)
		if err != nil {
			return u, err
		}
		u.Bytes, u.Inodes = u.Bytes+bytes, u.Inodes+inodes
	}
	bytes, inodes, err := layer.Usage(ctx, s.images)
	if err != nil {
		return u, fmt.Errorf("usage of the image store: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(s.layerDir, &st); err != nil {
		return u, &os.PathError{Op: "stat", Path: s.layerDir, Err: err}
	}
	u.Bytes += bytes + uint64(st.Blocks)*512
	u.Inodes += inodes + 1
	empty, n, err := layer.Usage(ctx, filepath.Join(s.layerDir, emptyDir))
	u.Bytes, u.Inodes = u.Bytes+empty, u.Inodes+n
	return u, err
}

// measure counts a layer of which no record says how large it is.
func (s *Store) measure(ctx context.Context, chain string) (bytes, inodes uint64, err error) {
	bytes, inodes, err = layer.Usage(ctx, s.layerPath(chain))
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, nil // deleted meanwhile
	}
	if err != nil {
		return 0, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if info := s.layers[chain]; info != nil {
		info.bytes, info.inodes, info.known = bytes, inodes, true
	}
	return bytes, inodes, nil
}
