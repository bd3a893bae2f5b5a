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

// unpack makes the layer of the stage in dir and completes the stage's record.
type unpack func(ctx context.Context, dir string, st *stage) error

// errDamaged is wrapped when the bytes from a host did not have the layer's digest, and
// another host can be asked, or the same one again.
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

// blame finds out whether unpacking failed because the bytes of the blob do not have its
// digest. For that it reads the rest of the blob, unless err has another obvious reason. The
// error wraps errDamaged if there is a host that can be asked again.
func blame(ctx context.Context, err error, body io.ReadCloser, rest io.Reader) error {
	var errno unix.Errno
	rejecter, ok := body.(interface{ Reject() bool })
	if !ok || ctx.Err() != nil || errors.As(err, &errno) {
		return err
	}
	_, verdict := io.Copy(io.Discard, rest)
	if !errors.Is(verdict, layer.ErrArchive) { // the digest is right, or the rest can't be read
		return err
	}
	if rejecter.Reject() {
		return fmt.Errorf("%w: %w", errDamaged, verdict)
	}
	return verdict
}

// applyVerified unpacks a decompressed layer and verifies its diffID at the same time.
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

// meter counts the bytes of a blob as they are fetched, and reports the progress at most
// once per [progressEvery].
type meter struct {
	io.Reader
	st    *stage
	total int64
	done  atomic.Int64
	last  time.Time
}

// progressEvery is the shortest time between two progress reports of a layer.
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
