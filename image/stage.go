package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/layer"
	"berth/oci/dirtree"
)

// stage is a layer in the making, for all pulls that want it.
type stage struct {
	rec    layerRecord
	refs   int  // pulls; guarded by Store.mu
	public bool // it has become a layer, which has the references; guarded by Store.mu
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when it is unpacked or failed
	listeners

	// Set before done is closed.
	dir    string // R/layers/.tmp-*
	result layer.Result
	err    error

	// Guarded by Store.commit.
	inherited bool
	renamed   bool
}

// unpack fills dir with the layer and completes rec.
type unpack func(ctx context.Context, dir string, st *stage) error

// acquire makes sure the layer is there or being made, and keeps it from being
// deleted until [Store.release]. The stage is nil when the layer is complete.
func (s *Store) acquire(rec layerRecord, tell func(Progress), do unpack) (st *stage, joined bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if info := s.layers[rec.ChainID]; info != nil {
		info.refs++
		return nil, false
	}
	if st := s.stages[rec.ChainID]; st != nil {
		st.refs++
		st.add(tell)
		return st, true
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	st = &stage{rec: rec, refs: 1, cancel: cancel, done: make(chan struct{})}
	st.add(tell)
	s.stages[rec.ChainID] = st
	s.flights.Add(1)
	go func() {
		defer s.flights.Done()
		s.make(ctx, st, do)
	}()
	return st, false
}

// make runs one layer's pipeline in the bounded pool.
func (s *Store) make(ctx context.Context, st *stage, do unpack) {
	defer st.cancel(nil)
	defer close(st.done)
	select {
	case s.pool <- struct{}{}:
		defer func() { <-s.pool }()
	case <-ctx.Done():
		st.err = context.Cause(ctx)
	}
	if st.err == nil {
		st.dir, st.err = os.MkdirTemp(s.layerDir, tmpPrefix)
	}
	if st.err == nil {
		st.err = do(ctx, st.dir, st)
	}
	if st.err == nil {
		st.rec.Bytes, st.rec.Inodes, st.err = layer.Usage(st.dir)
	}
	if st.err == nil {
		return
	}
	s.mu.Lock() // nobody may join a failed stage
	if s.stages[st.rec.ChainID] == st {
		delete(s.stages, st.rec.ChainID)
	}
	s.mu.Unlock()
	if st.dir != "" {
		st.err = errors.Join(st.err, dirtree.Remove(s.ctx, st.dir))
	}
}

// leave gives up one pull's part of a stage.
func (s *Store) leave(st *stage, cause error) {
	s.mu.Lock()
	if st.public {
		s.mu.Unlock()
		s.unref([]string{st.rec.ChainID})
		return
	}
	st.refs--
	last := st.refs == 0
	if last && s.stages[st.rec.ChainID] == st {
		delete(s.stages, st.rec.ChainID)
	}
	s.mu.Unlock()
	if !last {
		return
	}
	st.cancel(cause)
	<-st.done
	if st.err == nil {
		_ = dirtree.Remove(s.ctx, st.dir) // Sweep of the next start takes what is left
	}
}

// blobUnpacker fetches, verifies and unpacks a layer in one pass.
func blobUnpacker(src source, d ocispec.Descriptor, limits layer.Limits) unpack {
	return func(ctx context.Context, dir string, st *stage) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		body, err := src.blob(ctx, d)
		if err != nil {
			return err
		}
		defer body.Close() // only read
		counted := newMeter(body, st, d.Size)
		checked, err := layer.NewDigester(ctx, counted, d.Digest, d.Size, "layer "+d.Digest.String())
		if err != nil {
			return err
		}
		fetched := layer.NewAhead(checked)
		defer fetched.Close() //nolint:errcheck // always nil
		defer cancel()
		plain, err := layer.Decompress(ctx, fetched)
		if err != nil {
			return err
		}
		defer plain.Close() // only read
		return applyVerified(ctx, dir, st, plain, limits)
	}
}

// applyVerified unpacks a decompressed layer while it checks its diffID.
func applyVerified(ctx context.Context, dir string, st *stage, plain io.Reader, limits layer.Limits) error {
	ahead := layer.NewAhead(plain)
	defer ahead.Close() //nolint:errcheck // always nil
	diff, err := layer.NewDigester(ctx, ahead, digest.Digest(st.rec.DiffID), -1, "uncompressed layer")
	if err != nil {
		return err
	}
	if st.result, err = layer.Apply(dir, diff, limits); err != nil {
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

// stagePath is where a layer that is complete or staged lies. The caller holds
// commit, or a reference to the stage before it is renamed.
func (s *Store) stagePath(st *stage) string {
	if st.renamed {
		return s.layerPath(st.rec.ChainID)
	}
	return filepath.Clean(st.dir)
}
