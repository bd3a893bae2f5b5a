package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"

	"berth/image/layer"
	"berth/oci/dirtree"
)

// ref adds a reference to complete layers.
func (s *Store) ref(chains []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range chains {
		s.layers[c].refs++
	}
}

// unref gives references up, and deletes what nobody refers to any more.
func (s *Store) unref(chains []string) {
	if len(chains) == 0 {
		return
	}
	s.deref(chains)
	s.collect(s.ctx, chains) //nolint:errcheck // what can't be deleted now is by the next Sweep
}

func (s *Store) deref(chains []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range chains {
		if info := s.layers[c]; info != nil {
			info.refs--
		}
	}
}

// collect deletes those of the layers that nobody refers to. Each is first renamed,
// so that a crash in the middle, or the end of ctx, leaves nothing that looks complete.
func (s *Store) collect(ctx context.Context, chains []string) error {
	var errs []error
	s.commit.Lock()
	var doomed []string
	for _, c := range chains {
		s.mu.Lock()
		info := s.layers[c]
		free := info != nil && info.refs <= 0 && s.swept
		if free {
			delete(s.layers, c)
		}
		s.mu.Unlock()
		if !free {
			continue
		}
		tmp, err := s.setAside(c)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		doomed = append(doomed, tmp)
	}
	s.commit.Unlock()
	for _, d := range doomed {
		errs = append(errs, dirtree.Remove(ctx, d))
	}
	return errors.Join(errs...)
}

// setAside gives a layer's directory a name under which it is dropped by the next
// start at the latest. The caller holds commit.
func (s *Store) setAside(chain string) (string, error) {
	s.mu.Lock()
	s.keys++
	to := filepath.Join(s.layerDir, tmpPrefix+"dead-"+strconv.FormatInt(now().UnixNano(), 36)+"-"+strconv.FormatUint(s.keys, 10))
	s.mu.Unlock()
	return to, os.Rename(s.layerPath(chain), to) // needs no space on a full disk
}

// Hold keeps layers (Image.Layers) from being deleted, in the name of a container
// or another user, until [Store.Release] of the same key. Holding again replaces
// what the key held. It fails with ErrNotFound, and holds nothing new, when a layer
// is not there.
func (s *Store) Hold(key string, layers []string) error {
	s.mu.Lock()
	for _, c := range layers {
		if s.layers[c] == nil {
			s.mu.Unlock()
			return fmt.Errorf("%w: layer %s is not in the store; pull the image again", ErrNotFound, c)
		}
	}
	for _, c := range layers {
		s.layers[c].refs++
	}
	old := s.holds[key]
	s.holds[key] = slices.Clone(layers)
	s.mu.Unlock()
	s.unref(old)
	return nil
}

// briefly starts the keys of holds that last for one call.
const briefly = "\x00"

// holdBriefly holds layers until the function it gives is called.
func (s *Store) holdBriefly(layers []string) (release func(), err error) {
	s.mu.Lock()
	s.keys++
	key := briefly + strconv.FormatUint(s.keys, 10)
	s.mu.Unlock()
	return func() { s.Release(key) }, s.Hold(key, layers)
}

// Release ends a hold. Layers of images that were removed meanwhile are deleted
// before it returns.
func (s *Store) Release(key string) {
	s.mu.Lock()
	old := s.holds[key]
	delete(s.holds, key)
	s.mu.Unlock()
	s.unref(old)
}

// Sweep is to be called once all holds are known again after a restart. It deletes
// what an earlier process left half done and every layer nobody refers to; from
// then on layers are deleted as soon as the last reference goes. What there is to
// delete is settled at once, deleting it may take minutes: the store can be used
// meanwhile. Ended by ctx, the next start's Sweep deletes the rest.
func (s *Store) Sweep(ctx context.Context) error {
	s.mu.Lock()
	s.swept = true
	left := s.left
	s.left = nil
	var unused []string
	for c, info := range s.layers {
		if info.refs <= 0 {
			unused = append(unused, c)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, name := range left {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		errs = append(errs, dirtree.Remove(ctx, filepath.Join(s.layerDir, name)))
	}
	errs = append(errs, s.collect(ctx, unused))
	return errors.Join(errs...)
}

// Remove deletes the image with all its tags, whichever of them ref is; no such
// image is no error. Its space is free when it returns, except for layers that
// other images or holds refer to.
func (s *Store) Remove(_ context.Context, ref string) error {
	img, err := s.Get(ref)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.commit.Lock()
	s.mu.Lock()
	r := s.records[img.ID]
	s.mu.Unlock()
	if r == nil {
		s.commit.Unlock()
		return nil
	}
	if err := s.eraseRecord(r.ID); err != nil {
		s.commit.Unlock()
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	s.mu.Lock()
	delete(s.records, r.ID)
	s.publish()
	s.mu.Unlock()
	s.commit.Unlock()
	s.unref(r.chains())
	return nil
}

// fill completes a record with what is known of a layer that was there already.
func (s *Store) fill(ctx context.Context, l *layerRecord) error {
	s.mu.Lock()
	info := *s.layers[l.ChainID]
	for _, r := range s.records {
		for _, o := range r.Layers {
			if o.ChainID == l.ChainID {
				l.TarSize, l.DiffID = o.TarSize, o.DiffID
			}
		}
	}
	s.mu.Unlock()
	var err error
	if !info.known {
		if info.bytes, info.inodes, err = s.measure(ctx, l.ChainID); err != nil {
			return err
		}
	}
	l.Bytes, l.Inodes = info.bytes, info.inodes
	if l.TarSize > 0 {
		return nil
	}
	// A layer whose only record was lost in a crash: its archive tells.
	sum := digest.SHA256.Digester()
	n := counter(0)
	err = layer.Assemble(s.layerPath(l.ChainID), &contextWriter{ctx, io.MultiWriter(sum.Hash(), &n)})
	l.TarSize, l.DiffID = int64(n), sum.Digest().String()
	return err
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
