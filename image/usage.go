package image

import (
	"context"
	"fmt"

	"berth/oci/dirtree"
)

// Usage is what the store takes of its file system.
type Usage struct {
	Path   string // the directory that says which file system it is
	Bytes  uint64 // allocated, as du counts
	Inodes uint64
}

// Count tells how many images and unpacked layers there are.
func (s *Store) Count() (images, layers int) {
	return len(s.List()), s.pool.count()
}

// Usage adds up all layers, each once, and the records: what du says of images/ and
// layers/ while nothing is being pulled.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	u := Usage{Path: s.root}
	var err error
	if u.Bytes, u.Inodes, err = s.pool.usage(ctx); err != nil {
		return u, err
	}
	records, err := dirtree.Measure(ctx, s.cat.dir)
	if err != nil {
		return u, fmt.Errorf("usage of the image store: %w", err)
	}
	u.Bytes, u.Inodes = u.Bytes+records.Bytes, u.Inodes+records.Inodes
	return u, nil
}
