package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"berth/image/layer"
	"berth/image/registry"
)

const (
	tmpPrefix = ".tmp-"
	emptyDir  = ".empty"
	lockFile  = ".lock"
)

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
	// Platform overrides what is chosen from multi-platform images: OS/ARCH[/VARIANT].
	Platform string
	// Limits bounds one layer; see [layer.Limits].
	Limits layer.Limits
	// MaxLayers bounds the layers of one image. Default 500, what overlayfs can stack.
	MaxLayers int
	// MaxArchive is how many bytes an archive given to [Store.Load] may have
	// uncompressed. Default 64 GiB.
	MaxArchive int64
	// ProgressTimeout is how long a registry may be silent. Default 60 s.
	ProgressTimeout time.Duration
	// RetryAttempts and RetryBackoff govern repeated requests; see
	// [registry.Options]. Defaults 5 and 500 ms.
	RetryAttempts int
	RetryBackoff  time.Duration
	// UserAgent is sent to registries. Default "berth".
	UserAgent string
	// Trust is the policy images must satisfy to be pulled; nil accepts all.
	Trust *TrustPolicy
}

func (o Options) withDefaults() Options {
	if o.MaxParallel <= 0 {
		o.MaxParallel = min(max(2*runtime.GOMAXPROCS(0), 4), 12)
	}
	if o.MaxLayers <= 0 {
		o.MaxLayers = 500
	}
	if o.MaxArchive <= 0 {
		o.MaxArchive = 64 << 30
	}
	return o
}

// Store is the image store of one root directory. It is safe for concurrent use.
type Store struct {
	opts     Options
	platform platform
	images   string // directories
	layerDir string
	lock     *os.File
	client   *registry.Client
	slots    *slots // one for each layer being worked on
	ctx      context.Context
	cancel   context.CancelFunc
	flights  sync.WaitGroup

	index  atomic.Pointer[index]
	commit sync.Mutex

	mu      sync.Mutex
	records map[string]*record    // by ID
	layers  map[string]*layerInfo // complete ones, by ChainID
	holds   map[string][]string
	stages  map[string]*stage // layers in the making, by ChainID
	pulls   map[string]*pull
	swept   bool
	left    []string // .tmp directories of an earlier process
	seq     uint64   // of the last record
	keys    uint64   // of the last brief hold or layer set aside
}

// layerInfo is a complete layer.
type layerInfo struct {
	bytes, inodes uint64
	known         bool // bytes and inodes are
	refs          int  // by images, holds and pulls
}

// Open takes the store at opts.Root, creating it if need be, and reads what is
// there. Only one process can have it open.
func Open(opts Options) (*Store, error) {
	opts = opts.withDefaults()
	p, err := parsePlatform(opts.Platform)
	if err != nil {
		return nil, err
	}
	s := &Store{
		opts: opts, platform: p,
		images: filepath.Join(opts.Root, "images"), layerDir: filepath.Join(opts.Root, "layers"),
		slots:   newSlots(opts.MaxParallel),
		records: map[string]*record{}, layers: map[string]*layerInfo{}, holds: map[string][]string{},
		stages: map[string]*stage{}, pulls: map[string]*pull{},
		client: registry.New(registry.Options{
			CertsDirs: opts.CertsDirs, UserAgent: opts.UserAgent, Timeout: opts.ProgressTimeout,
			Attempts: opts.RetryAttempts, Backoff: opts.RetryBackoff,
		}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the image store at %s: %w", opts.Root, classify(err)), s.Close())
	}
	return s, nil
}

func (s *Store) open() error {
	empty := filepath.Join(s.layerDir, emptyDir)
	for _, dir := range []string{s.images, s.layerDir, empty, filepath.Join(empty, "0"), filepath.Join(empty, "1")} {
		perm := os.FileMode(0o700)
		if filepath.Dir(dir) == empty {
			perm = 0o755
		}
		if err := os.MkdirAll(dir, perm); err != nil {
			return err
		}
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	if err := s.findLayers(); err != nil {
		return err
	}
	if err := s.loadRecords(); err != nil {
		return err
	}
	s.publish()
	return nil
}

func (s *Store) takeLock() error {
	f, err := os.OpenFile(filepath.Join(s.images, lockFile), os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("another process has it open; give this one another root: %w", err), f.Close())
	}
	s.lock = f
	return nil
}

// findLayers lists the complete layers and what an earlier process left behind.
func (s *Store) findLayers() error {
	entries, err := os.ReadDir(s.layerDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, tmpPrefix):
			s.left = append(s.left, name)
		case isHex(name) && len(name) == 64 && e.IsDir():
			s.layers["sha256:"+name] = &layerInfo{}
		}
	}
	return nil
}

// Close ends all pulls, waits for them, and gives up the lock. Mounts stay.
func (s *Store) Close() error {
	s.cancel()
	s.flights.Wait()
	s.client.Close()
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// layerPath is the directory of a complete layer.
func (s *Store) layerPath(chain string) string {
	return filepath.Join(s.layerDir, strings.TrimPrefix(chain, "sha256:"))
}

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}
