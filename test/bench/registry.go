package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// loopback is a registry on 127.0.0.1. Manifests are held by go-containerregistry;
// blobs are files that net/http sends with sendfile and in ranges, so that the
// registry costs the two CPUs as little as a remote one would.
type loopback struct {
	host   string // 127.0.0.1:port
	blobs  string // directory of files named by hex digest
	server *http.Server
}

var blobPath = regexp.MustCompile(`^/v2/.+/blobs/sha256:([0-9a-f]{64})$`)

// serveRegistry starts a registry whose blobs are in dir.
func serveRegistry(ctx context.Context, dir string) (*loopback, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &loopback{host: listener.Addr().String(), blobs: dir}
	manifests := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	l.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if m := blobPath.FindStringSubmatch(req.URL.Path); m != nil {
				l.serveBlob(w, req, m[1])
				return
			}
			manifests.ServeHTTP(w, req)
		}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() { _ = l.server.Serve(listener) }()
	return l, nil
}

func (l *loopback) serveBlob(w http.ResponseWriter, req *http.Request, hex string) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", "sha256:"+hex)
	http.ServeFile(w, req, filepath.Join(l.blobs, hex))
}

// close ends the registry; its blobs go with the tmpfs.
func (l *loopback) close() error { return l.server.Close() }

// add keeps the bytes of a blob under their digest.
func (l *loopback) add(digest v1.Hash, data []byte) error {
	return os.WriteFile(filepath.Join(l.blobs, digest.Hex), data, 0o644)
}

// publish stores an image of the given layers, whose blobs are in place, and
// gives its reference.
func (l *loopback) publish(repo string, base v1.Image, layers []v1.Layer) (string, error) {
	ref := l.host + "/" + repo
	tag, err := name.NewTag(ref)
	if err != nil {
		return "", err
	}
	img, err := mutate.AppendLayers(base, layers...)
	if err != nil {
		return "", err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return "", err
	}
	digest, err := img.ConfigName()
	if err != nil {
		return "", err
	}
	// remote.Write asks first and finds every blob there: only the manifest travels.
	if err := errors.Join(l.add(digest, config), remote.Write(tag, img)); err != nil {
		return "", fmt.Errorf("publish %s: %w", ref, err)
	}
	return ref, nil
}

// blobURL is where a layer can be fetched with curl.
func (l *loopback) blobURL(repo string, digest v1.Hash) string {
	return fmt.Sprintf("http://%s/v2/%s/blobs/%s", l.host, repo, digest)
}
