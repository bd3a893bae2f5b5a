package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"berth/image/layer"
	"berth/image/registry"
	"berth/oci/flock"
)

// lockFile is held while the store is open.
const lockFile = ".lock"

// Options configures a store. Only Root is required.
type Options struct {
	// Root is the directory under which images/ and layers/ are.
	Root string
	// CertsDirs are candidates for the registries' configuration (certs.d layout);
	// the first that exists is read, on every pull.
	CertsDirs []string
	// MaxParallel bounds the layers fetched and unpacked at once, over all pulls; a
	// pull that waited in vain for 3 s gets one more, up to 16 in all and 8 of one
	// registry. Default: twice the processors, at least 4 and at most 12.
	MaxParallel int
	// PinnedImages are names, with * as wildcard, of images the kubelet is asked not
	// to collect; a pattern without wildcard is completed as image names are.
	PinnedImages []string
	// Trust is the policy images must satisfy to be pulled; nil accepts all.
	Trust *TrustPolicy
	// Observe is told what is fetched, for metrics. Its functions may be nil.
	Observe Observer

	// For tests.
	platform        string        // OS/ARCH[/VARIANT] chosen from indexes; "" is this machine's
	limits          layer.Limits  // of one layer
	maxLayers       int           // of one image; 0 is 500, what overlayfs can stack
	maxArchive      int64         // uncompressed bytes of an archive; 0 is 64 GiB
	progressTimeout time.Duration // how long a registry may be silent
	retryAttempts   int           // see [registry.Options]
	retryBackoff    time.Duration
}

func (o Options) withDefaults() Options {
	if o.MaxParallel <= 0 {
		o.MaxParallel = min(max(2*runtime.GOMAXPROCS(0), 4), 12)
	}
	if o.maxLayers <= 0 {
		o.maxLayers = 500
	}
	if o.maxArchive <= 0 {
		o.maxArchive = 64 << 30
	}
	return o
}

// Store is the image store of one root directory. It is safe for concurrent use. It
// only puts together what it consists of; see the package documentation.
type Store struct {
	root   string
	lock   *os.File
	bg     *background
	client *registry.Client

	pool    *layerPool
	staging *staging
	cat     *catalogue
	loader  *loader
	trust   *trust
	*pulls  // Pull
}

// Open takes the store at opts.Root, creating it if need be, and reads what is
// there. Only one process can have it open.
func Open(opts Options) (*Store, error) {
	opts = opts.withDefaults()
	p, err := parsePlatform(opts.platform)
	if err != nil {
		return nil, err
	}
	s := &Store{root: opts.Root, bg: newBackground(), client: registry.New(registry.Options{
		CertsDirs: opts.CertsDirs, Timeout: opts.progressTimeout,
		Attempts: opts.retryAttempts, Backoff: opts.retryBackoff,
	})}
	if err := s.open(opts, p); err != nil {
		return nil, errors.Join(fmt.Errorf("open the image store at %s: %w", opts.Root, classify(err)), s.Close())
	}
	return s, nil
}

func (s *Store) open(opts Options, want platform) (err error) {
	images := filepath.Join(opts.Root, "images")
	if err := os.MkdirAll(images, 0o700); err != nil {
		return err
	}
	if s.lock, err = lockDir(images); err != nil {
		return err
	}
	if s.pool, err = openPool(filepath.Join(opts.Root, "layers"), s.bg); err != nil {
		return err
	}
	if s.cat, err = openCatalogue(images, opts.PinnedImages, s.pool); err != nil {
		return err
	}
	s.staging = newStaging(s.pool, newSlots(opts.MaxParallel), s.bg)
	im := &importer{cat: s.cat, staging: s.staging, limits: opts.limits, observe: opts.Observe}
	x := examiner{platform: want, maxLayers: opts.maxLayers}
	s.trust = newTrust(opts.Trust)
	p := &puller{importer: im, examiner: x, client: s.client, trust: s.trust}
	s.pulls = newPulls(s.bg, s.trust, opts.Observe.timed(p.pull))
	s.loader = &loader{importer: im, examiner: x, bg: s.bg, maxArchive: opts.maxArchive}
	return nil
}

// SetTrust replaces the policy that images must satisfy to be pulled; nil accepts all.
// A pull that has begun may still be judged by the one before.
func (s *Store) SetTrust(p *TrustPolicy) { s.trust.set(p) }

// SetPinned replaces the names of images the kubelet is asked not to collect, see
// [Options].
func (s *Store) SetPinned(patterns []string) { s.cat.pin(patterns) }

// lockDir keeps other processes out of the directory until the file is closed.
func lockDir(dir string) (*os.File, error) {
	f, err := flock.Try(filepath.Join(dir, lockFile))
	if errors.Is(err, flock.ErrLocked) {
		err = fmt.Errorf("another process has it open; give this one another root: %w", err)
	}
	return f, err
}

// Close ends all pulls, waits for them, and gives up the lock. Mounts stay.
func (s *Store) Close() error {
	s.bg.stop()
	s.client.Close()
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// Load brings in the images of an archive: what docker save writes, or an OCI image
// layout as tar; either may be compressed. It gives the images in archive order.
func (s *Store) Load(ctx context.Context, r io.Reader, opts LoadOptions) ([]*Image, error) {
	return s.loader.loadTar(ctx, r, opts)
}

// LoadDir does the same for a directory that holds an OCI image layout or an
// unpacked docker archive.
func (s *Store) LoadDir(ctx context.Context, dir string, opts LoadOptions) ([]*Image, error) {
	return s.loader.loadDir(ctx, dir, opts)
}

// Seed loads every image archive in a directory: tar files of any accepted form and
// directories with an OCI image layout. Images that are here already cost a look at
// their manifest. A file that can't be loaded does not keep the others from it; a
// directory that does not exist holds nothing.
func (s *Store) Seed(ctx context.Context, dir string) ([]*Image, error) {
	return s.loader.seed(ctx, dir)
}

// List gives all images, the last pulled first. The slice must not be changed.
func (s *Store) List() []*Image { return s.cat.view().sorted }

// Get finds an image by its ID (with or without sha256:), an unambiguous prefix of
// it, a tag or digest in full or in docker's short form, or both. A reference with
// a digest ignores its tag, as when pulling.
func (s *Store) Get(ref string) (*Image, error) { return s.cat.view().get(ref) }

// RawConfig reads the configuration of the image with this ID as it was published. It
// is not kept in memory.
func (s *Store) RawConfig(id string) ([]byte, error) {
	r, err := s.cat.record(id)
	if err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w", id, err)
	}
	return r.Config, nil
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
	if err := s.cat.remove(img.ID); err != nil {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	return nil
}

// Hold keeps layers (Image.Layers) from being deleted, in the name of a container
// or another user, until [Store.Release] of the same key. Holding again replaces
// what the key held. It fails with ErrNotFound, and holds nothing new, when a layer
// is not there.
func (s *Store) Hold(key string, layers []string) error { return s.pool.hold(key, layers) }

// Release ends a hold. Layers of images that were removed meanwhile are deleted
// before it returns.
func (s *Store) Release(key string) { s.pool.release(key) }

// Sweep is to be called once all holds are known again after a restart. It deletes
// what an earlier process left half done and every layer nobody refers to; from
// then on layers are deleted as soon as the last reference goes. What there is to
// delete is settled at once, deleting it may take minutes: the store can be used
// meanwhile. Ended by ctx, the next start's Sweep deletes the rest.
func (s *Store) Sweep(ctx context.Context) error { return s.pool.sweep(ctx) }

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}
