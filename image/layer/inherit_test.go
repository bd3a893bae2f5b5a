package layer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestInheritTakesTheTopmost(t *testing.T) {
	bottom, _ := apply(t, archive(t, folder("d", 0o701), folder("d/e", 0o701), folder("only", 0o701)))
	middle, _ := apply(t, archive(t, folder("d", 0o702), file(".wh.only", "")))
	opaque, _ := apply(t, archive(t, folder("d", 0o703), file("d/.wh..wh..opq", "")))
	for name, c := range map[string]struct {
		below []string
		want  map[string]uint32
	}{
		"none":       {nil, map[string]uint32{"d": 0o755, "d/e": 0o755, "only": 0o755}},
		"one":        {[]string{bottom}, map[string]uint32{"d": 0o701, "d/e": 0o701, "only": 0o701}},
		"two":        {[]string{bottom, middle}, map[string]uint32{"d": 0o702, "d/e": 0o701, "only": 0o755}},
		"opaque":     {[]string{bottom, opaque}, map[string]uint32{"d": 0o703, "d/e": 0o755, "only": 0o701}},
		"both sides": {[]string{opaque, bottom}, map[string]uint32{"d": 0o701, "d/e": 0o701, "only": 0o701}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, res := apply(t, archive(t, file("d/e/f", "x"), file("only/f", "x")))
			inherit(t, dir, res, c.below...)
			for path, want := range c.want {
				if st := stat(t, dir, FSDir, path); st.Mode&0o7777 != want {
					t.Errorf("%s has the mode %o, want %o", path, st.Mode&0o7777, want)
				}
			}
			for _, list := range []string{impliedName, whiteoutsName} {
				if _, err := os.Stat(filepath.Join(dir, list)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the list %s is left: %v", list, err)
				}
			}
		})
	}
}

// TestInheritTwice: a pull whose client went away in the middle is followed by another.
func TestInheritTwice(t *testing.T) {
	below, _ := apply(t, archive(t, folder("d", 0o711)))
	data := archive(t, file("d/f", "x"), file("e/.wh.gone", ""))
	dir := filepath.Join(t.TempDir(), "layer")
	res, err := Apply(t.Context(), dir, bytes.NewReader(data), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var b Below
	defer b.Close()
	if err := b.Push(below); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Inherit(ctx, dir, res, &b); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
	dropped, err := Inherit(t.Context(), dir, res, &b)
	if err != nil || dropped != 1 {
		t.Errorf("dropped %d whiteouts, %v, want 1", dropped, err)
	}
	if st := stat(t, dir, FSDir, "d"); st.Mode&0o7777 != 0o711 {
		t.Errorf("the mode is %o, want that from below", st.Mode&0o7777)
	}
	sameBack(t, dir, data)
	if err := b.Push(filepath.Join(dir, "nothing")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a layer that is not there gave %v", err)
	}
}
