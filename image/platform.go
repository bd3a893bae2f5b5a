package image

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/cpu"
)

// platform is the operating system and architecture that images must be made for.
type platform struct {
	os, arch string
	variants []string // acceptable variants, best first; "" is an image that names none
}

// parsePlatform reads OS/ARCH[/VARIANT]. "" is the platform of this machine.
func parsePlatform(s string) (platform, error) {
	if s == "" {
		return platform{os: "linux", arch: runtime.GOARCH, variants: hostVariants()}, nil
	}
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return platform{}, fmt.Errorf("platform %q must have the form OS/ARCH or OS/ARCH/VARIANT", s)
	}
	variant := ""
	if len(parts) == 3 {
		variant = parts[2]
	}
	return platform{os: parts[0], arch: parts[1], variants: downFrom(parts[1], variant)}, nil
}

// hostVariants returns the variants of the architecture that this processor can run.
func hostVariants() []string {
	switch runtime.GOARCH {
	case "amd64":
		return downFrom("amd64", x86Level())
	case "arm":
		return downFrom("arm", "v7")
	}
	return downFrom(runtime.GOARCH, "")
}

// x86Level returns the microarchitecture level of this processor (v1 to v4 of the x86-64
// psABI), judged by a few features that each level adds.
func x86Level() string {
	all := func(features ...bool) bool { return !slices.Contains(features, false) }
	x := &cpu.X86
	switch {
	case all(x.HasAVX512F, x.HasAVX512BW, x.HasAVX512CD, x.HasAVX512DQ, x.HasAVX512VL):
		return "v4"
	case all(x.HasAVX2, x.HasBMI1, x.HasBMI2, x.HasFMA):
		return "v3"
	case all(x.HasSSE42, x.HasPOPCNT):
		return "v2"
	}
	return "v1"
}

// downFrom returns a variant and the variants that it includes, best first. An image that
// names no variant is made for the architecture's base, and is placed accordingly.
func downFrom(arch, variant string) []string {
	ladder := map[string][]string{
		"amd64": {"v4", "v3", "v2", "v1"},
		"arm":   {"v8", "v7", "v6", "v5"},
		"arm64": {"v9", "v8"},
	}[arch]
	base := map[string]string{"amd64": "v1", "arm": "v7", "arm64": "v8"}[arch]
	if variant == "" {
		variant = base
	}
	i := slices.Index(ladder, variant)
	if i < 0 {
		return []string{variant, ""}
	}
	var out []string
	for _, v := range ladder[i:] {
		out = append(out, v)
		if v == base {
			out = append(out, "")
		}
	}
	if !slices.Contains(out, "") {
		out = append(out, "")
	}
	return out
}

// choose returns the entry of an index that fits this platform best.
func (p platform) choose(list []ocispec.Descriptor) (ocispec.Descriptor, error) {
	best, rank := -1, len(p.variants)
	var offered []string
	for i, d := range list {
		if d.Platform == nil {
			if best < 0 && len(list) == 1 {
				best = i
			}
			continue
		}
		if d.Platform.OS != "unknown" && len(offered) < maxOffered {
			offered = append(offered, platformString(d.Platform))
		}
		if d.Platform.OS != p.os || d.Platform.Architecture != p.arch {
			continue
		}
		if r := slices.Index(p.variants, d.Platform.Variant); r >= 0 && r < rank {
			best, rank = i, r
		}
	}
	if best < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("%w: the image is not made for %s/%s, only for %s",
			ErrNotFound, p.os, p.arch, strings.Join(offered, ", "))
	}
	return list[best], nil
}

// maxOffered is how many platforms of an index the error lists when none of them fits.
const maxOffered = 20

func platformString(p *ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return fmt.Sprintf("%.50s", s)
}
