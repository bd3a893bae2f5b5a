package registry

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	d := "@sha256:" + strings.Repeat("ab", 32)
	for in, want := range map[string]string{
		"busybox":                       "docker.io/library/busybox:latest",
		"busybox:1.2":                   "docker.io/library/busybox:1.2",
		"user/app":                      "docker.io/user/app:latest",
		"docker.io/busybox":             "docker.io/library/busybox:latest",
		"index.docker.io/library/b":     "docker.io/library/b:latest",
		"localhost/x":                   "localhost/x:latest",
		"localhost:5000/x/y:z":          "localhost:5000/x/y:z",
		"registry.k8s.io/pause:3.9":     "registry.k8s.io/pause:3.9",
		"registry.k8s.io/pause" + d:     "registry.k8s.io/pause" + d,
		"registry.k8s.io/pause:3.9" + d: "registry.k8s.io/pause:3.9" + d,
		"[::1]:5000/a":                  "[::1]:5000/a:latest",
		"EXAMPLE.com/a__b/c-d.e":        "example.com/a__b/c-d.e:latest",
	} {
		if r, err := Parse(in); err != nil || r.String() != want {
			t.Errorf("%q: %q %v", in, r, err)
		}
	}
	for _, in := range []string{"", "UPPER", "a//b", "/a", "a/", "a:", "a:b:c", "a@b", "a@sha256:12", "-a", "a/../b", "a b", "a\n", strings.Repeat("a", 300), strings.Repeat("ab", 32), "http://x/y", "x:" + strings.Repeat("t", 129)} {
		if r, err := Parse(in); !errors.Is(err, ErrInvalidReference) {
			t.Errorf("%q is accepted as %q", in, r)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"busybox", "a.b:5/c/d:e@sha256:" + strings.Repeat("0", 64), "..", "a:/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil || again != r {
			t.Fatalf("%q gives %q, which gives %q, %v", s, r, again, err)
		}
		if strings.ContainsAny(r.Host, "/\x00") || strings.Contains(r.Host, "..") {
			t.Fatalf("host %q is no file name", r.Host)
		}
	})
}
