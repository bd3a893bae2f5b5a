package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

// gate counts requests for blobs and can hold them up.
type gate struct {
	blobs   atomic.Int64
	entered chan struct{} // one element per blob request, when not nil
	hold    chan struct{} // closed to let them go on
	h       http.Handler
}

func (g *gate) wrap(h http.Handler) http.Handler { g.h = h; return g }

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
		g.blobs.Add(1)
		if g.entered != nil {
			g.entered <- struct{}{}
			<-g.hold
		}
	}
	g.h.ServeHTTP(w, r)
}

func TestPullShared(t *testing.T) {
	g := &gate{}
	reg := newRegistry(t, g.wrap)
	shared := layerOf(t, layerTar(t, entry{"shared", strings.Repeat("s", 1<<20)}))
	var refs []string
	for i := range 6 {
		own := layerOf(t, layerTar(t, entry{fmt.Sprint("own", i), "x"}))
		refs = append(refs, reg.push(t, fmt.Sprint("app", i), imageOf(t, shared, own)))
	}
	g.blobs.Store(0)
	s := openStore(t, Options{})
	var eg errgroup.Group
	for i := range 60 {
		eg.Go(func() error {
			_, err := s.Pull(t.Context(), PullRequest{Reference: refs[i%6]})
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := g.blobs.Load(); n != 6+6+1 {
		t.Errorf("%d blobs were fetched; 6 configurations, 6 layers and a shared one are needed", n)
	}
	if n := len(layerDirs(t, s)); n != 7 {
		t.Errorf("%d layers on disk", n)
	}
	for _, ref := range refs {
		if err := s.Remove(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	if left := layerDirs(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPullCanceled has the client that began a pull give up while another waits.
func TestPullCanceled(t *testing.T) {
	g := &gate{}
	reg := newRegistry(t, g.wrap)
	l := layerOf(t, layerTar(t, entry{"f", "x"}))
	a, b := reg.push(t, "a", imageOf(t, l)), reg.push(t, "b", imageOf(t, l, layerOf(t, layerTar(t, entry{"g", "y"}))))
	for n, second := range map[string]string{"same name": a, "same layer": b} {
		t.Run(n, func(t *testing.T) {
			g.entered, g.hold = make(chan struct{}, 100), make(chan struct{})
			s := openStore(t, Options{})
			first, giveUp := context.WithCancel(t.Context())
			errs := make(chan error, 2)
			go func() {
				_, err := s.Pull(first, PullRequest{Reference: a})
				errs <- err
			}()
			<-g.entered
			done := make(chan error, 1)
			go func() {
				_, err := s.Pull(t.Context(), PullRequest{Reference: second})
				done <- err
			}()
			if second != a {
				<-g.entered
			} else {
				for joined := false; !joined; {
					s.pulls.mu.Lock()
					for _, p := range s.pulls.byKey {
						joined = p.refs == 2
					}
					s.pulls.mu.Unlock()
				}
			}
			giveUp()
			if err := <-errs; !errors.Is(err, context.Canceled) {
				t.Errorf("the first got %v", err)
			}
			close(g.hold)
			if err := <-done; err != nil {
				t.Errorf("the second got %v", err)
			}
			s.bg.running.Wait()
			for _, d := range layerDirs(t, s) {
				if strings.HasPrefix(d, tmpPrefix) {
					t.Errorf("left: %s", d)
				}
			}
		})
	}
}

func TestPullAbandoned(t *testing.T) {
	g := &gate{entered: make(chan struct{}, 100), hold: make(chan struct{})}
	reg := newRegistry(t, nil)
	ref := reg.push(t, "a", imageOf(t, layerOf(t, layerTar(t, entry{"f", strings.Repeat("x", 1<<20)}))))
	held := newRegistry(t, func(http.Handler) http.Handler { return g.wrap(reg.Config.Handler) })
	ref = held.host + ref[strings.IndexByte(ref, '/'):]
	s := openStore(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Pull(ctx, PullRequest{Reference: ref})
		done <- err
	}()
	<-g.entered // the configuration
	g.hold <- struct{}{}
	<-g.entered // the layer
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(g.hold)
	s.bg.running.Wait()
	if left := layerDirs(t, s); len(left) != 0 || len(s.List()) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestTagMoves(t *testing.T) {
	reg := newRegistry(t, nil)
	one, two := imageOf(t, layerOf(t, layerTar(t, entry{"f", "1"}))), imageOf(t, layerOf(t, layerTar(t, entry{"f", "2"})))
	s := openStore(t, Options{})
	ref := reg.push(t, "app:latest", one)
	old := pullOK(t, s, ref)
	reg.push(t, "app:latest", two)
	img := pullOK(t, s, ref)
	if img.ID == old.ID || img.Tags[0] != ref {
		t.Errorf("%+v", img)
	}
	was, err := s.Get(old.ID)
	if err != nil || len(was.Tags) != 0 || len(was.Digests) != 1 {
		t.Errorf("the old image: %+v, %v", was, err)
	}
	both := ref + "@" + img.Digests[0][strings.IndexByte(img.Digests[0], '@')+1:]
	if got := pullOK(t, s, both); got.ID != img.ID {
		t.Error("tag and digest")
	}
	oldBoth := ref + "@" + was.Digests[0][strings.IndexByte(was.Digests[0], '@')+1:]
	if got := pullOK(t, s, oldBoth); got.ID != old.ID || len(got.Tags) != 0 {
		t.Error("a name with tag and digest moved the tag")
	}
	if got, err := s.Get(oldBoth); err != nil || got.ID != old.ID {
		t.Errorf("Get of tag and digest: %v", err)
	}
}

func TestBadImages(t *testing.T) {
	reg := newRegistry(t, nil)
	good := layerOf(t, layerTar(t, entry{"f", "x"}))
	img := imageOf(t, good)
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	wrong := cfg.DeepCopy()
	wrong.RootFS.DiffIDs[0] = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}
	badDiff, err := mutate.ConfigFile(img, wrong)
	if err != nil {
		t.Fatal(err)
	}
	notTar := imageOf(t, static.NewLayer([]byte(strings.Repeat("not a tar", 200)), types.DockerUncompressedLayer))
	schema1 := `{"schemaVersion":1,"name":"x","fsLayers":[{"blobSum":"sha256:` + strings.Repeat("0", 64) + `"}]}`
	put := func(name, mediaType, body string) string {
		req, err := http.NewRequest(http.MethodPut, reg.URL+"/v2/"+name+"/manifests/latest", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", mediaType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return reg.host + "/" + name
	}
	s := openStore(t, Options{})
	for want, ref := range map[string]string{
		"not sha256:0000":           reg.push(t, "baddiff", badDiff),
		"tar":                       reg.push(t, "nottar", notTar),
		"schema 1":                  put("old", "application/vnd.docker.distribution.manifest.v1+prettyjws", schema1),
		"neither a manifest":        put("odd", "application/json", `{"schemaVersion":2}`),
		"no manifest":               put("text", "text/plain", `hello`),
		"image not found":           reg.host + "/absent",
		"invalid image reference":   reg.host + "/UPPER",
		"RegistryUnavailable: pull": "127.0.0.1:1/x",
	} {
		_, err := s.Pull(t.Context(), PullRequest{Reference: ref})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
	if left := layerDirs(t, s); len(left) != 0 || len(s.List()) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := empty.Image.Digest(); err != nil {
		t.Fatal(err)
	}
}

func TestArtifact(t *testing.T) {
	reg := newRegistry(t, nil)
	blob := static.NewLayer([]byte("weights"), "application/x-model")
	img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: blob, Annotations: map[string]string{"org.opencontainers.image.title": "dir/../../model.bin"}},
		mutate.Addendum{Layer: static.NewLayer([]byte("unnamed"), "text/plain")})
	if err != nil {
		t.Fatal(err)
	}
	img = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), "application/vnd.example+json")
	s := openStore(t, Options{})
	got := pullOK(t, s, reg.push(t, "model", img))
	d, _ := img.Digest()
	if !got.Artifact || got.ID != d.String() || got.Size == 0 {
		t.Errorf("%+v", got)
	}
	dir := view(t, s, got, MountRequest{})
	if read(t, dir, "model.bin") != "weights" {
		t.Error("content differs")
	}
	if rep, err := s.Check(t.Context(), false); err != nil || len(rep.Problems) != 0 {
		t.Errorf("%+v %v", rep, err)
	}
}

func TestProgressAndPinned(t *testing.T) {
	reg := newRegistry(t, nil)
	ref := reg.push(t, "team/app:v1", imageOf(t, layerOf(t, layerTar(t, entry{"f", strings.Repeat("x", 1<<20)}))))
	s := openStore(t, Options{PinnedImages: []string{reg.host + "/team/*"}})
	var mu sync.Mutex
	var stages []string
	img, err := s.Pull(t.Context(), PullRequest{Reference: ref, Progress: func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if len(stages) == 0 || stages[len(stages)-1] != p.Stage {
			stages = append(stages, p.Stage)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(stages, " "); got != "resolve layer commit done" {
		t.Errorf("stages %s", got)
	}
	if !img.Pinned {
		t.Error("not pinned")
	}
}

func TestReopen(t *testing.T) {
	reg := newRegistry(t, nil)
	root := t.TempDir()
	s := openStore(t, Options{Root: root})
	ref := reg.push(t, "a", sampleImage(t))
	img := pullOK(t, s, ref)
	if _, err := Open(Options{Root: root}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v", err)
	}
	s.Close()
	s = openStore(t, Options{Root: root})
	got, err := s.Get(ref)
	if err != nil || got.ID != img.ID || got.Size != img.Size || !got.PulledAt.Equal(img.PulledAt) {
		t.Errorf("%+v, %v", got, err)
	}
	sameAsDu(t, s)
	if time.Since(got.PulledAt) > time.Hour {
		t.Error("PulledAt")
	}
}
