package image

import (
	"context"
	"fmt"

	"berth/oci/dirtree"
)

// Usage is the disk usage of the store.
type Usage struct {
	Path   string // a directory on the store's filesystem
	Bytes  uint64 // allocated bytes, as du counts them
	Inodes uint64
}

// Count tells how many images and unpacked layers there are.
func (s *Store) Count() (images, layers int) {
	return len(s.List()), s.pool.count()
}

// Usage returns the disk usage of all layers, each counted once, and of the records. While
// no pull is in progress it is what du reports for images/ and layers/.
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
