package layer

import (
	"context"

	"berth/oci/dirtree"
)

// Usage gives what the directory takes of the disk, as du counts it: allocated
// bytes and inodes, itself included, a file with several names once. A file that
// vanishes meanwhile is not counted. It ends with ctx.
func Usage(ctx context.Context, path string) (bytes, inodes uint64, err error) {
	u, err := dirtree.Measure(ctx, path)
	return u.Bytes, u.Inodes, err
}
