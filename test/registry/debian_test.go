package registry

import (
	"slices"
	"testing"
)

// Ubuntu's names since the change to 64 bits of time are provided by packages with others.
func TestDependencies(t *testing.T) {
	got := dependencies([]byte("nginx\n  PreDepends: libc6\n  Depends: <libssl3>\n    libssl3t64\n    libssl3other\n |Depends: libeither\n  Depends: <libnone>\n  Depends: zlib1g\n"))
	if want := []string{"libc6", "libssl3t64", "zlib1g"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
