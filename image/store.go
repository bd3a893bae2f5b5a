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

// lockFile is the name of the file that is locked while the store is open.
const lockFile = ".lock"

// Options configures a store. Only Root is required.
type Options struct {
	// Root is the directory that contains images/ and layers/.
	Root string
	// CertsDirs are directories with the configuration of registries, in the layout of
	// containerd's certs.d. The first one that exists is used; it is read for every pull.
	CertsDirs []string
	// MaxParallel is how many layers are fetched and unpacked at once, over all pulls. A
	// pull that could start none of its layers for 3 s starts one nevertheless; there are
	// at most 16 of these, 8 per registry. Default: twice the number of processors, but at
	// least 4 and at most 12.
	MaxParallel int
	// PinnedImages are the names of images that the kubelet is asked not to
	// garbage-collect; * is a wildcard. A name without a wildcard may be in docker's short
	// form.
	PinnedImages []string
	// Trust is the policy for the images that may be pulled; nil allows all.
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

// Store is the image store of one root directory. It is safe for concurrent use. Its parts
// are described in the package documentation.
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

// Open opens the store at opts.Root, which is created if it does not exist, and reads its
// records. Only one process can have a store open.
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

// lockDir locks the directory for this process, until the file returned is closed. It fails
// if another process has it locked.
func lockDir(dir string) (*os.File, error) {
	f, err := flock.Try(filepath.Join(dir, lockFile))
	if errors.Is(err, flock.ErrLocked) {
		err = fmt.Errorf("another process has it open; give this one another root: %w", err)
	}
	return f, err
}

// Close cancels all pulls, waits until they have ended, and unlocks the directory. Mounts
// stay.
func (s *Store) Close() error {
	s.bg.stop()
	s.client.Close()
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// Load reads the images of an archive into the store: the output of docker save, or an OCI
// image layout as a tar file; either may be compressed. It returns the images in the order
// of the archive.
func (s *Store) Load(ctx context.Context, r io.Reader, opts LoadOptions) ([]*Image, error) {
	return s.loader.loadTar(ctx, r, opts)
}

// LoadDir does what [Store.Load] does, for a directory with an OCI image layout or with an
// unpacked docker archive.
func (s *Store) LoadDir(ctx context.Context, dir string, opts LoadOptions) ([]*Image, error) {
	return s.loader.loadDir(ctx, dir, opts)
}

// Seed loads every image archive in a directory: tar files as for [Store.Load], and
// directories as for [Store.LoadDir]. Of an image that the store has already, only the
// manifest is read. If a file can't be loaded, the others are loaded nevertheless, and the
// error names it. A directory that does not exist counts as empty.
func (s *Store) Seed(ctx context.Context, dir string) ([]*Image, error) {
	return s.loader.seed(ctx, dir)
}

// List returns all images, the last pulled first. The slice must not be changed.
func (s *Store) List() []*Image { return s.cat.view().sorted }

// Get returns an image by its ID (with or without sha256:), by an unambiguous prefix of the
// ID, or by a name with a tag, a digest or both, in full or in docker's short form. If the
// name has a digest, its tag is ignored, as in a pull. The error is [ErrNotFound] if there
// is no such image.
func (s *Store) Get(ref string) (*Image, error) { return s.cat.view().get(ref) }

// RawConfig reads the configuration of the image with this ID from disk: the JSON bytes
// that were pulled.
func (s *Store) RawConfig(id string) ([]byte, error) {
	r, err := s.cat.record(id)
	if err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w", id, err)
	}
	return r.Config, nil
}

// Remove deletes the image that ref names, with all its names. It is no error if there is
// no such image. When it returns, the disk space is free, except for layers that other
// images or holds refer to.
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

// Hold prevents the deletion of layers (Image.Layers) until [Store.Release] is called with
// the same key, such as the ID of a container. A second Hold with a key replaces the first.
// If some of the layers do not exist it fails with [ErrNotFound] and holds the others, beside
// what the key held before: a container that runs on a damaged image needs what is left of it.
func (s *Store) Hold(key string, layers []string) error { return s.pool.hold(key, layers) }

// Release ends a hold, also one that failed. Before it returns, the layers that have no other
// reference (their images were removed meanwhile) are deleted.
func (s *Store) Release(key string) { s.pool.release(key) }

// Sweep deletes the temporary directories of an earlier process, every layer without a
// reference and every dropped layer without a hold. It is called after a start, when all holds
// were made again. Only from then on are layers deleted when their last reference ends. The
// deletion may take minutes; the store can be used meanwhile. If ctx ends before, the Sweep of
// the next start deletes the rest.
func (s *Store) Sweep(ctx context.Context) error { return s.pool.sweep(ctx) }

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}
