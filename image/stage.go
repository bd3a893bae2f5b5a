package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"berth/image/layer"
	"berth/oci/dirtree"
)

// stage is a layer in the making, for all pulls that want it. Pulls that would have it
// from the same source share one attempt. A pull that would have it from elsewhere
// makes an attempt of its own beside the others, and the first that succeeds counts:
// another registry must not be able to hold up a layer by never finishing it.
type stage struct {
	rec    layerRecord
	refs   int  // pulls; guarded by Store.mu
	public bool // it has become a layer, which has the references; guarded by Store.mu
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when it is unpacked or failed
	listeners

	// Guarded by Store.mu.
	attempts map[string]*attempt // by origin.source; those that failed are not in it
	running  int                 // attempts
	settled  bool                // one succeeded, or all failed

	// Set before done is closed.
	dir    string // R/layers/.tmp-*
	result layer.Result
	err    error

	inheriting chan struct{} // holds an element while a pull completes the layer
	inherited  bool          // guarded by inheriting

	renamed bool // guarded by Store.commit
}

// attempt is one source's part in a stage.
type attempt struct {
	turn
	failed chan struct{} // closed when it failed
	err    error         // valid once failed is closed
}

// unpack fills dir with the layer and completes rec.
type unpack func(ctx context.Context, dir string, st *stage) error

var errOvertaken = errors.New("the layer was there from elsewhere before")

// origin tells where layer i would come from.
func (g *ingest) origin(i int) origin {
	l := g.found.layers[i]
	src, ok := g.src.(registrySource)
	if !ok {
		return origin{pull: g, source: fmt.Sprintf("archive %p", g)}
	}
	o := origin{pull: g, registry: src.repo.Registry(), source: src.repo.Registry() + " " + l.Digest}
	switch {
	case g.found.artifact: // its blobs may have URLs, which the manifest pins
		o.source += " " + g.found.manifest.Digest.String()
	case isForeign(l.MediaType):
		o.source += fmt.Sprintf(" %q", g.found.urls[l.Digest])
	}
	return o
}

// acquire makes sure the layer is there or being made, and keeps it from being
// deleted until [Store.release]. The stage is nil when the layer is complete. joined
// tells that the attempt is one another pull has begun.
func (s *Store) acquire(rec layerRecord, o origin, tell func(Progress), do unpack) (st *stage, a *attempt, joined bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if info := s.layers[rec.ChainID]; info != nil {
		info.refs++
		return nil, nil, false
	}
	st = s.stages[rec.ChainID]
	if st == nil {
		st = &stage{rec: rec, done: make(chan struct{}), attempts: map[string]*attempt{}, inheriting: make(chan struct{}, 1)}
		st.ctx, st.cancel = context.WithCancelCause(s.ctx)
		s.stages[rec.ChainID] = st
	}
	st.refs++
	st.add(tell)
	if a = st.attempts[o.source]; a != nil {
		s.slots.join(&a.turn, o)
		return st, a, true
	}
	if st.settled {
		return st, nil, true
	}
	a = &attempt{turn: newTurn(o), failed: make(chan struct{})}
	st.attempts[o.source] = a
	st.running++
	made := &stage{rec: rec}
	made.add(st.tell)
	s.flights.Add(1)
	go func() {
		defer s.flights.Done()
		err := s.make(st.ctx, made, &a.turn, do)
		s.settle(st, made, a, o.source, err)
	}()
	return st, a, false
}

// await waits for the stage, or for the attempt at it to fail.
func (st *stage) await(ctx context.Context, a *attempt) error {
	var failed chan struct{}
	if a != nil {
		failed = a.failed
	}
	select {
	case <-st.done:
	case <-failed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-st.done:
		if st.err == nil || a == nil {
			return st.err
		}
	default:
	}
	return a.err
}

// errDamaged says that a registry's bytes were not the layer's, and that others can be
// asked for.
var errDamaged = errors.New("the download was damaged")

// make makes one layer, or cleans up after it.
func (s *Store) make(ctx context.Context, made *stage, t *turn, do unpack) error {
	err := s.unpack(ctx, made, t, do)
	if err != nil && made.dir != "" {
		err = errors.Join(err, dirtree.Remove(s.ctx, made.dir))
	}
	return err
}

// settle takes what an attempt made for the stage, if it is the first to succeed. The
// stage has failed when all attempts have.
func (s *Store) settle(st, made *stage, a *attempt, source string, err error) {
	s.mu.Lock()
	st.running--
	won := err == nil && !st.settled
	over := won || st.running == 0 && !st.settled
	st.settled = st.settled || over
	switch {
	case won:
		st.rec, st.result, st.dir = made.rec, made.result, made.dir
	case err != nil:
		delete(st.attempts, source)
		a.err = err
		close(a.failed)
		if over {
			st.err = err
			s.forget(st)
		}
	}
	s.mu.Unlock()
	if err == nil && !won {
		_ = dirtree.Remove(s.ctx, made.dir) // Sweep of the next start takes what is left
	}
	if over {
		close(st.done)
		st.cancel(errOvertaken)
	}
}

// forget lets nobody join the stage any more. The caller holds mu.
func (s *Store) forget(st *stage) {
	if s.stages[st.rec.ChainID] == st {
		delete(s.stages, st.rec.ChainID)
	}
}

// unpack runs one layer's pipeline when it is its turn. Its slot is free again before
// what failed is removed, which may take longer than it took to unpack.
func (s *Store) unpack(ctx context.Context, made *stage, t *turn, do unpack) (err error) {
	if err := s.slots.take(ctx, t); err != nil {
		return err
	}
	defer s.slots.give(t)
	for again := true; again; {
		if made.dir, err = os.MkdirTemp(s.layerDir, tmpPrefix); err != nil {
			return err
		}
		err = do(ctx, made.dir, made)
		if again = errors.Is(err, errDamaged); again {
			s.removeAside(made.dir)
		}
	}
	if err != nil {
		return err
	}
	bytes, inodes, err := layer.Usage(ctx, made.dir)
	passing, files := layer.ListUsage(made.dir)
	made.rec.Bytes, made.rec.Inodes = bytes-passing, inodes-files
	return err
}

// removeAside removes a layer's directory while its slot is used for the next attempt.
func (s *Store) removeAside(dir string) {
	s.flights.Add(1)
	go func() { // ends with the directory or the store
		defer s.flights.Done()
		_ = dirtree.Remove(s.ctx, dir) // Sweep of the next start takes what is left
	}()
}

// inherit completes the unpacked layer, unless that was done, for one pull at a time.
func (st *stage) inherit(ctx context.Context, below *layer.Below) error {
	select {
	case st.inheriting <- struct{}{}:
		defer func() { <-st.inheriting }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if st.inherited {
		return nil
	}
	dropped, err := layer.Inherit(ctx, st.dir, st.result, below)
	st.rec.Inodes -= uint64(dropped)
	st.inherited = err == nil
	return err
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
	if last {
		s.forget(st)
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
