package registry

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is a registry on loopback that speaks plain HTTP.
type Registry struct {
	Host string // 127.0.0.1:port

	server  *http.Server
	ended   chan error
	mu      sync.Mutex
	blobs   int
	handler http.Handler
}

// Start serves an empty registry until Close.
func Start() (*Registry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	quiet := log.New(io.Discard, "", 0)
	r := &Registry{
		Host:    l.Addr().String(),
		ended:   make(chan error, 1),
		handler: ggcr.New(ggcr.Logger(quiet), ggcr.WithBlobHandler(ggcr.NewInMemoryBlobHandler())),
	}
	r.server = &http.Server{Handler: http.HandlerFunc(r.serve), ErrorLog: quiet}
	go func() { r.ended <- r.server.Serve(l) }()
	return r, nil
}

// Close ends the server with its connections.
func (r *Registry) Close() error {
	err := r.server.Close()
	if served := <-r.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	h := r.handler
	if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/sha256:") {
		r.blobs++
	}
	r.mu.Unlock()
	h.ServeHTTP(w, req)
}

// Blobs counts the blobs (layers and configs) that were asked for until now.
func (r *Registry) Blobs() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blobs
}

// Wrap puts a handler before the registry, to deny, delay or damage answers,
// and returns what takes it away again.
func (r *Registry) Wrap(wrap func(http.Handler) http.Handler) (unwrap func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	inner := r.handler
	r.handler = wrap(inner)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.handler = inner
	}
}

// Image is what a reference can lead to: a [v1.Image] or a [v1.ImageIndex].
type Image interface{ Digest() (v1.Hash, error) }

// Push stores an image under its upstream name; the name's host is where
// clients think it is and is not kept.
func (r *Registry) Push(ref string, img Image) error {
	up, err := name.ParseReference(ref)
	if err != nil {
		return err
	}
	here := r.Host + "/" + up.Context().RepositoryStr()
	var dst name.Reference
	if tag, ok := up.(name.Tag); ok {
		dst, err = name.NewTag(here+":"+tag.TagStr(), name.Insecure)
	} else {
		dst, err = name.NewDigest(here+"@"+up.Identifier(), name.Insecure)
	}
	if err != nil {
		return err
	}
	switch img := img.(type) {
	case v1.Image:
		err = remote.Write(dst, img)
	case v1.ImageIndex:
		err = remote.WriteIndex(dst, img)
	default:
		err = fmt.Errorf("neither an image nor an index")
	}
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// PushAll pushes every image of the map under its key.
func (r *Registry) PushAll(images map[string]Image) error {
	for ref, img := range images {
		if err := r.Push(ref, img); err != nil {
			return err
		}
	}
	return nil
}

// Upstreams are the registries that the images' names tell of.
var Upstreams = []string{"docker.io", "registry.k8s.io", "k8s.gcr.io", "gcr.io"}

// WriteHosts makes dir a certs.d directory that sends pulls from the upstream
// registries here, and never to themselves.
func (r *Registry) WriteHosts(dir string, upstreams ...string) error {
	for _, host := range upstreams {
		sub := filepath.Join(dir, host)
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		text := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n",
			"http://"+r.Host, "http://"+r.Host)
		if err := os.WriteFile(filepath.Join(sub, "hosts.toml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
