package integration

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/node"
	"berth/test/registry"
)

// dripping sends a byte of each layer of one repository a second, and counts who waits.
type dripping struct {
	inner  http.Handler
	path   string // of the repository's blobs
	config string // the one that is sent whole
	began  chan struct{}
	wg     sync.WaitGroup
}

func (d *dripping) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.HasPrefix(r.URL.Path, d.path) || strings.HasSuffix(r.URL.Path, d.config) {
		d.inner.ServeHTTP(w, r)
		return
	}
	d.wg.Add(1)
	defer d.wg.Done()
	d.began <- struct{}{}
	for tick := time.NewTicker(time.Second); ; {
		w.Write([]byte{0x1f})
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}

// TestAttackDripPull: an image of more layers than can be fetched at once, whose
// registry sends them a byte at a time, keeps every other image from being pulled, also
// after the client that asked for it is gone.
func TestAttackDripPull(t *testing.T) {
	s := own(t, node.Options{Tmpfs: true})
	image := func(ref string, n int) v1.Image {
		var list []v1.Layer
		for i := range n {
			l, err := registry.Layer(registry.File{Path: fmt.Sprint("/", i), Mode: 0o644, Data: []byte(ref)})
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, l)
		}
		img, err := registry.Build(v1.Config{}, list...)
		if err == nil {
			err = images.Push(ref, img)
		}
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	const layers, atOnce = 16, 4
	drip := image("docker.io/test/drip:v1", layers)
	image("docker.io/test/beside:v1", 3)
	image("registry.k8s.io/test/elsewhere:v1", 3)
	config, err := drip.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	d := &dripping{path: "/v2/test/drip/blobs/", config: config.String(), began: make(chan struct{}, 2*layers)}
	defer images.Wrap(func(inner http.Handler) http.Handler { d.inner = inner; return d })()

	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	gone := make(chan error, 1)
	go func() {
		_, err := s.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "docker.io/test/drip:v1"}})
		gone <- err
	}()
	for range atOnce {
		<-d.began
	}
	s.pull(t, "registry.k8s.io/test/elsewhere:v1")
	giveUp()
	wantCode(t, "the client that left", <-gone, codes.Canceled)
	s.pull(t, "docker.io/test/beside:v1")

	ended := make(chan struct{})
	go func() { d.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(30*time.Second + patience):
		t.Error("the pull whose client is gone goes on")
	}
}
