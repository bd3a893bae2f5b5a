package registry

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func start(t *testing.T) *Registry {
	t.Helper()
	r, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func ok[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestPushedImageIsServedUnderItsPath(t *testing.T) {
	r := start(t)
	img := ok[v1.Image](t)(Fixed())
	for _, ref := range []string{"docker.io/library/fixed:1", "fixed:2", "registry.k8s.io/e2e/fixed"} {
		if err := r.Push(ref, img); err != nil {
			t.Fatal(err)
		}
	}
	want := ok[v1.Hash](t)(img.Digest())
	for _, path := range []string{"library/fixed:1", "library/fixed:2", "e2e/fixed:latest", "e2e/fixed@" + want.String()} {
		ref := ok[name.Reference](t)(name.ParseReference(r.Host + "/" + path))
		got := ok[*remote.Descriptor](t)(remote.Get(ref))
		if got.Digest != want {
			t.Errorf("%s is %s, want %s", path, got.Digest, want)
		}
	}
}

func TestWrapAndBlobs(t *testing.T) {
	r := start(t)
	img := ok[v1.Image](t)(Fixed())
	if err := r.Push("x/fixed:1", img); err != nil {
		t.Fatal(err)
	}
	ref := ok[name.Reference](t)(name.ParseReference(r.Host + "/x/fixed:1"))
	unwrap := r.Wrap(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	})
	if _, err := remote.Image(ref); err == nil {
		t.Error("the wrapped registry answered")
	}
	unwrap()
	got := ok[v1.Image](t)(remote.Image(ref))
	before := r.Blobs()
	layers := ok[[]v1.Layer](t)(got.Layers())
	rc := ok[io.ReadCloser](t)(layers[0].Compressed())
	defer rc.Close()
	if n := r.Blobs() - before; n == 0 {
		t.Error("the layer's download was not counted")
	}
}

func TestHostsFileNamesTheMirror(t *testing.T) {
	r := start(t)
	dir := t.TempDir()
	if err := r.WriteHosts(dir, Upstreams...); err != nil {
		t.Fatal(err)
	}
	got := string(ok[[]byte](t)(os.ReadFile(filepath.Join(dir, "registry.k8s.io", "hosts.toml"))))
	want := "server = \"http://" + r.Host + "\"\n\n[host.\"http://" + r.Host + "\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The digest is written into critest's build; changing it is fine, not knowing is not.
func TestFixedIsReproducible(t *testing.T) {
	a, b := ok[v1.Image](t)(Fixed()), ok[v1.Image](t)(Fixed())
	if x, y := ok[v1.Hash](t)(a.Digest()), ok[v1.Hash](t)(b.Digest()); x != y {
		t.Errorf("%s and %s", x, y)
	}
}

// The commands that critest runs work in the image, tried by chroot.
func TestCritestImagesHoldWhatCritestRuns(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for chroot")
	}
	images := ok[map[string]Image](t)(Critest())
	cases := []struct{ ref, command, want string }{
		{"registry.k8s.io/e2e-test-images/busybox:1.29-2", "echo -n hello", "hello"},
		{"registry.k8s.io/e2e-test-images/busybox:1.29-2", "id -nu", "root\n"},
		{"registry.k8s.io/e2e-test-images/busybox:1.29-2", "rm /bin/ls; ls", "sh: ls: not found\n"},
		{"registry.k8s.io/e2e-test-images/busybox:1.29-2", "for c in ping brctl netstat top hostname pgrep ipcs grep pidof mount mkdir touch; do x=$(command -v $c) || echo $c; done", ""},
		{"registry.k8s.io/e2e-test-images/busybox:1.29-2", "x=$(ipcs --help) && echo runs", "runs\n"},
		{"registry.k8s.io/e2e-test-images/nginx:1.14-2", "x=$(nginx -v 2>&1) && echo runs", "runs\n"},
		{"registry.k8s.io/e2e-test-images/httpd:2.4.39-4", "cat /srv/www/index.html", page},
		{"gcr.io/k8s-staging-cri-tools/test-image-predefined-group", "id -G default-user", "1000 50000\n"},
		{"registry.k8s.io/e2e-test-images/nonewprivs:1.3", "", "Effective uid: 0\n"},
	}
	roots := map[string]string{}
	for _, c := range cases {
		img, isImage := images[c.ref].(v1.Image)
		if !isImage {
			t.Fatalf("no image %s", c.ref)
		}
		if roots[c.ref] == "" {
			roots[c.ref] = unpackImage(t, img)
		}
		args := []string{roots[c.ref], "sh", "-c", c.command}
		if c.command == "" {
			args = []string{roots[c.ref], ok[*v1.ConfigFile](t)(img.ConfigFile()).Config.Entrypoint[0]}
		}
		out, err := exec.Command("chroot", args...).CombinedOutput()
		if string(out) != c.want {
			t.Errorf("%s: %q printed %q (%v), want %q", c.ref, c.command, out, err, c.want)
		}
	}
}

func unpackImage(t *testing.T, img v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	rc := mutate.Extract(img)
	defer rc.Close()
	for tr := tar.NewReader(rc); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		switch {
		case h.Typeflag == tar.TypeSymlink:
			err = os.Symlink(h.Linkname, at)
		case h.Typeflag == tar.TypeLink:
			err = os.Link(filepath.Join(dir, h.Linkname), at)
		case strings.HasSuffix(h.Name, "/") || h.Typeflag == tar.TypeDir:
			err = os.MkdirAll(at, 0o755)
		default:
			err = os.WriteFile(at, ok[[]byte](t)(io.ReadAll(tr)), os.FileMode(h.Mode)&0o777)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
