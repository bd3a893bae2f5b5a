package integration

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/registry"
)

func (s *suite) imageStatus(t *testing.T, ref string) *runtimeapi.Image {
	t.Helper()
	r, err := s.Images.ImageStatus(within(t), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		t.Fatalf("ImageStatus %s: %v", ref, err)
	}
	return r.GetImage()
}

func (s *suite) removeImage(t *testing.T, ref string) {
	t.Helper()
	if _, err := s.Images.RemoveImage(within(t), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}}); err != nil {
		t.Errorf("RemoveImage %s: %v", ref, err)
	}
}

// fresh pushes an image that nothing else uses and removes it with the test.
func fresh(t *testing.T, ref string, files ...registry.File) v1.Image {
	t.Helper()
	files = append(files, registry.File{Path: "/" + t.Name(), Mode: 0o644, Data: []byte(t.Name())})
	l, err := registry.Layer(files...)
	if err != nil {
		t.Fatal(err)
	}
	img, err := registry.Build(v1.Config{Cmd: []string{"/x"}, User: "7:8"}, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := images.Push(ref, img); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shared.removeImage(t, ref) })
	return img
}

func TestPullByTagAndDigest(t *testing.T) {
	s := shared
	img := fresh(t, "docker.io/test/bytag:v1")
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.pull(t, "docker.io/test/bytag:v1"); got != id.String() {
		t.Errorf("image_ref %s, the config's digest is %s", got, id)
	}
	byDigest := "docker.io/test/bytag@" + digest.String()
	for _, ref := range []string{
		"docker.io/test/bytag:v1", "test/bytag:v1", id.String(), id.Hex, id.Hex[:12], byDigest, "test/bytag:v1@" + digest.String(),
	} {
		st := s.imageStatus(t, ref)
		if st == nil {
			t.Errorf("%s is not found", ref)
			continue
		}
		if st.GetId() != id.String() || st.GetUid().GetValue() != 7 || st.GetSize() == 0 {
			t.Errorf("%s: %v", ref, st)
		}
		if diff := cmp.Diff([]string{"docker.io/test/bytag:v1"}, st.GetRepoTags()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{byDigest}, st.GetRepoDigests()); diff != "" {
			t.Error(diff)
		}
	}
	s.removeImage(t, "test/bytag:v1")
	if st := s.imageStatus(t, id.String()); st != nil {
		t.Errorf("removed, and still %v", st)
	}
	s.removeImage(t, "test/bytag:v1") // unknown: fine
	if got := s.pull(t, byDigest); got != id.String() {
		t.Errorf("pulled by digest: %s", got)
	}
	if st := s.imageStatus(t, byDigest); len(st.GetRepoTags()) != 0 {
		t.Errorf("pulled by digest it has tags %v", st.GetRepoTags())
	}
}

// A second pull fetches nothing, and eight at once fetch once.
func TestPullFetchesOnce(t *testing.T) {
	const ref = "docker.io/test/once:v1"
	fresh(t, ref)
	before := images.Blobs()
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			_, err := shared.Images.PullImage(within(t), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := images.Blobs() - before; n > 2 { // config and layer
		t.Errorf("8 pulls at once fetched %d blobs", n)
	}
	before = images.Blobs()
	if _, err := shared.Images.PullImage(within(t), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}}); err != nil {
		t.Error(err)
	}
	if n := images.Blobs() - before; n > 1 { // reading the config again would be fine
		t.Errorf("a second pull fetched %d blobs", n)
	}
}

func TestTagsOfOneImage(t *testing.T) {
	s := shared
	var want []string
	for _, n := range []string{"1", "2", "3"} {
		ref := "gcr.io/k8s-staging-cri-tools/test-image-tags:" + n
		want = append(want, ref)
		s.pull(t, ref)
	}
	st := s.imageStatus(t, want[0])
	got := slices.Sorted(slices.Values(st.GetRepoTags()))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	s.removeImage(t, want[1])
	for _, ref := range want {
		if st := s.imageStatus(t, ref); st != nil {
			t.Errorf("%s survived the removal of the image by another tag", ref)
		}
	}
}

// What a registry can do wrong: a clear error, nothing listed, nothing stored.
func TestPullFailures(t *testing.T) {
	answer := func(status int, body string) func(http.Handler) http.Handler {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			})
		}
	}
	cases := map[string]struct {
		wrap func(http.Handler) http.Handler
		code codes.Code
	}{
		"unknown tag":   {nil, codes.NotFound},
		"not JSON":      {answer(200, "{"), codes.OK},
		"server error":  {answer(500, "oops"), codes.OK},
		"denied":        {answer(401, "no"), codes.PermissionDenied},
		"damaged layer": {damage(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), codes.OK},
		"short layer":   {damage(func(b []byte) []byte { return b[:len(b)/2] }), codes.OK},
		"long layer":    {damage(func(b []byte) []byte { return append(b, 0) }), codes.OK},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			ref := "docker.io/test/failing:v1"
			fresh(t, ref, registry.File{Path: "/data", Mode: 0o644, Data: []byte(strings.Repeat(name, 100))})
			if c.wrap == nil {
				ref = "docker.io/test/failing:v2"
			} else {
				defer images.Wrap(c.wrap)()
			}
			before := layers(t)
			_, err := shared.Images.PullImage(within(t), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
			if err == nil {
				t.Fatal("no error")
			}
			if c.code != codes.OK {
				wantCode(t, name, err, c.code)
			}
			if !strings.Contains(err.Error(), "test/failing") {
				t.Errorf("the error does not name the image: %v", err)
			}
			if st := shared.imageStatus(t, ref); st != nil {
				t.Errorf("it is listed: %v", st)
			}
			if diff := cmp.Diff(before, layers(t)); diff != "" {
				t.Errorf("layers on disk: %s", diff)
			}
		})
	}
}

// damage changes the blobs that are larger than a config.
func damage(change func([]byte) []byte) func(http.Handler) http.Handler {
	return func(inner http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
				inner.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			inner.ServeHTTP(rec, r)
			body := rec.Body.Bytes()
			if len(body) > 2 && body[0] == 0x1f { // gzip: a layer
				body = change(body)
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(body)
		})
	}
}

// layers lists what the store has on disk for layers.
func layers(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(shared.Root, "layers"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			out = append(out, e.Name())
		}
	}
	return out
}

// Images with a layer in common keep it once, and it goes with the last.
func TestSharedLayers(t *testing.T) {
	common, err := registry.Layer(registry.File{Path: "/common", Mode: 0o644, Data: []byte(t.Name())})
	if err != nil {
		t.Fatal(err)
	}
	before := layers(t)
	refs := []string{"docker.io/test/shares:a", "docker.io/test/shares:b"}
	for _, ref := range refs {
		own, err := registry.Layer(registry.File{Path: "/own", Mode: 0o644, Data: []byte(ref)})
		if err != nil {
			t.Fatal(err)
		}
		img, err := registry.Build(v1.Config{}, common, own)
		if err != nil {
			t.Fatal(err)
		}
		if err := images.Push(ref, img); err != nil {
			t.Fatal(err)
		}
		shared.pull(t, ref)
	}
	if n := len(layers(t)) - len(before); n != 3 {
		t.Errorf("%d layers were stored, want 3", n)
	}
	shared.removeImage(t, refs[0])
	if n := len(layers(t)) - len(before); n != 2 {
		t.Errorf("%d layers are left with one image, want 2", n)
	}
	shared.removeImage(t, refs[1])
	if diff := cmp.Diff(before, layers(t)); diff != "" {
		t.Errorf("after both are removed: %s", diff)
	}
}

// A pull that the client gave up leaves no half image; the next one works.
func TestCanceledPull(t *testing.T) {
	const ref = "docker.io/test/canceled:v1"
	fresh(t, ref)
	asked := make(chan struct{}, 8)
	hold := make(chan struct{})
	unwrap := images.Wrap(func(inner http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				select {
				case asked <- struct{}{}:
				default:
				}
				<-hold
			}
			inner.ServeHTTP(w, r)
		})
	})
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan error, 1)
	go func() {
		_, err := shared.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		done <- err
	}()
	<-asked
	cancel()
	wantCode(t, "the canceled pull", <-done, codes.Canceled)
	if st := shared.imageStatus(t, ref); st != nil {
		t.Errorf("it is listed: %v", st)
	}
	close(hold)
	unwrap()
	if got := shared.pull(t, ref); got == "" {
		t.Error("the second pull gave no reference")
	}
}

func TestImageFsInfo(t *testing.T) {
	r, err := shared.Images.ImageFsInfo(within(t), &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	shared.pull(t, busybox)
	for name, list := range map[string][]*runtimeapi.FilesystemUsage{"images": r.GetImageFilesystems(), "containers": r.GetContainerFilesystems()} {
		if len(list) == 0 {
			t.Errorf("no filesystem for %s", name)
		}
		for _, f := range list {
			if st, err := os.Stat(f.GetFsId().GetMountpoint()); err != nil || !st.IsDir() {
				t.Errorf("%s: %v is no directory: %v", name, f.GetFsId(), err)
			}
		}
	}
}
