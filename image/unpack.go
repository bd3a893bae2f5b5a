package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"berth/image/layer"
)

// unpack fills dir with the layer and completes rec.
type unpack func(ctx context.Context, dir string, st *stage) error

// errDamaged says that a registry's bytes were not the layer's, and that others can be
// asked for.
var errDamaged = errors.New("the download was damaged")

// blobUnpacker fetches, verifies and unpacks a layer in one pass. received is told how
// many bytes of the blob came, whether or not they were of use.
func blobUnpacker(src source, d ocispec.Descriptor, limits layer.Limits, received func(int64)) unpack {
	return func(ctx context.Context, dir string, st *stage) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		body, err := src.Blob(ctx, d)
		if err != nil {
			return err
		}
		defer body.Close() // only read
		counted := newMeter(body, st, d.Size)
		defer func() { received(counted.done.Load()) }()
		checked, err := layer.NewDigester(ctx, counted, d.Digest, d.Size, "layer "+d.Digest.String())
		if err != nil {
			return err
		}
		fetched := layer.NewAhead(checked)
		defer fetched.Close() //nolint:errcheck // always nil
		defer cancel()
		if err = decompressAndApply(ctx, dir, st, fetched, limits); err == nil {
			return nil
		}
		return blame(ctx, err, body, fetched)
	}
}

func decompressAndApply(ctx context.Context, dir string, st *stage, r io.Reader, limits layer.Limits) error {
	plain, err := layer.Decompress(ctx, r)
	if err != nil {
		return err
	}
	defer plain.Close() // only read
	return applyVerified(ctx, dir, st, plain, limits)
}

// blame finds out whether a blob failed to unpack because it is not what its digest
// names: the rest of it is read for that, unless the reason is plain. The error wraps
// errDamaged when there is a host to ask again.
func blame(ctx context.Context, err error, body io.ReadCloser, rest io.Reader) error {
	var errno unix.Errno
	rejecter, ok := body.(interface{ Reject() bool })
	if !ok || ctx.Err() != nil || errors.As(err, &errno) {
		return err
	}
	_, verdict := io.Copy(io.Discard, rest)
	if !errors.Is(verdict, layer.ErrArchive) { // the blob is right, or no more of it comes
		return err
	}
	if rejecter.Reject() {
		return fmt.Errorf("%w: %w", errDamaged, verdict)
	}
	return verdict
}

// applyVerified unpacks a decompressed layer while it checks its diffID.
func applyVerified(ctx context.Context, dir string, st *stage, plain io.Reader, limits layer.Limits) error {
	ahead := layer.NewAhead(plain)
	defer ahead.Close() //nolint:errcheck // always nil
	diff, err := layer.NewDigester(ctx, ahead, digest.Digest(st.rec.DiffID), -1, "uncompressed layer")
	if err != nil {
		return err
	}
	if st.result, err = layer.Apply(ctx, dir, diff, limits); err != nil {
		return fmt.Errorf("layer %s: %w", st.rec.Digest, err)
	}
	st.rec.TarSize = st.result.Size
	return nil
}

// meter counts what is fetched of a blob and tells of it, not too often.
type meter struct {
	io.Reader
	st    *stage
	total int64
	done  atomic.Int64
	last  time.Time
}

// progressEvery is how often a layer's progress is told.
const progressEvery = 100 * time.Millisecond

func newMeter(r io.Reader, st *stage, total int64) *meter {
	return &meter{Reader: r, st: st, total: total}
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	done := m.done.Add(int64(n))
	if t := time.Now(); t.Sub(m.last) >= progressEvery || done == m.total {
		m.last = t
		m.st.tell(Progress{Stage: StageLayer, Layer: m.st.rec.Digest, Done: done, Total: m.total})
	}
	return n, err
}
