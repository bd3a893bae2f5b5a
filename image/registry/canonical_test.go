package registry

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// dialled is the host and port https connects to for what was written, worked out
// from the rules of URLs and of package net alone.
func dialled(t *testing.T, written string) string {
	t.Helper()
	u, err := url.Parse("https://" + written + "/")
	if err != nil {
		t.Fatal(err)
	}
	host, port := strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), u.Port()
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String() // which writes mapped addresses as IPv4, as the dialer takes them
	}
	n := 443
	if port != "" {
		if n, err = strconv.Atoi(port); err != nil {
			t.Fatal(err)
		}
	}
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		host = "docker.io"
	}
	return net.JoinHostPort(host, strconv.Itoa(n))
}

// spell writes the host and the port in some way that means the same.
func spell(r *rand.Rand, host string, port int) string {
	out := []byte(host)
	if addr, err := netip.ParseAddr(host); err == nil {
		out = []byte(spellAddr(r, addr))
	} else if r.IntN(3) == 0 {
		out = append(out, '.')
	}
	for i, c := range out {
		if r.IntN(2) == 0 && c >= 'a' && c <= 'z' {
			out[i] = c - 'a' + 'A'
		}
	}
	if port == 443 && r.IntN(2) == 0 {
		return string(out)
	}
	return string(out) + ":" + strings.Repeat("0", r.IntN(5-len(strconv.Itoa(port))+1)) + strconv.Itoa(port)
}

func spellAddr(r *rand.Rand, a netip.Addr) string {
	if a.Is4() {
		if r.IntN(2) == 0 {
			return a.String()
		}
		b := a.As4()
		return fmt.Sprintf("[::ffff:%x:%x]", int(b[0])<<8|int(b[1]), int(b[2])<<8|int(b[3]))
	}
	switch r.IntN(3) {
	case 0:
		return "[" + a.StringExpanded() + "]"
	case 1:
		var parts []string
		for _, p := range strings.Split(a.StringExpanded(), ":") {
			n, _ := strconv.ParseUint(p, 16, 16)
			parts = append(parts, strconv.FormatUint(n, 16))
		}
		return "[" + strings.Join(parts, ":") + "]"
	}
	return "[" + a.String() + "]"
}

// TestAttackSpellings writes one registry's name in thousands of ways that all dial
// it, to find one that the trust policy, the mirrors or the credentials don't know it
// by.
func TestAttackSpellings(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6005))
	for _, named := range []string{"localhost", "registry.example", "index.docker.io", "docker.io", "127.0.0.1", "::1", "fd00::a:0:1", "2001:db8::"} {
		for _, port := range []int{6005, 443, 80, 65535, 1} {
			seen := map[string]string{}
			for range 300 {
				s := spell(r, named, port)
				ref, err := Parse(s + "/team/x")
				if named == "localhost" && !strings.ContainsAny(s, ".:") && s != named {
					if err == nil { // like any word without dot or colon it is part of a repository
						t.Fatalf("%q is accepted as %q", s, ref)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%q: %v", s, err)
				}
				seen[ref.Host] = s
				if again, err := Parse(ref.String()); err != nil || again != ref {
					t.Fatalf("%q gives %q, which gives %q, %v", s, ref, again, err)
				}
				if dialled(t, s) != dialled(t, ref.Host) {
					t.Fatalf("%q dials %s, its canonical form %q dials %s", s, dialled(t, s), ref.Host, dialled(t, ref.Host))
				}
				for _, p := range []string{s + "/team/*", s + "/*", s + "/team/x"} {
					if pat, err := ParsePattern(p); err != nil || !pat.Matches(ref.Name()) {
						t.Fatalf("the pattern %q does not match %q: %v", p, ref, err)
					}
				}
				h := &host{base: &url.URL{Scheme: "https", Host: ref.Host}}
				if !belongs(Credentials{ServerAddress: "https://" + s + "/v2/"}, h, "other.example") {
					t.Fatalf("credentials for %q do not go to %q", s, ref.Host)
				}
			}
			if len(seen) != 1 {
				t.Errorf("%s port %d is known as %v", named, port, seen)
			}
		}
	}
}

// TestAttackOddAddresses names machines in ways that only some resolvers understand,
// and addresses that stand for this machine without being its own.
func TestAttackOddAddresses(t *testing.T) {
	for _, s := range []string{
		"127.1:6005", "0x7f.0.0.1", "2130706433:6005", "0x7f000001:6005", "0177.0.0.1:5000", "127.0.0.01", "1.2.3.4.5", "0.0.0.0:6005", "[::]:6005",
		"[::ffff:0:0]:6005", "localhost:0", "localhost:65536", "localhost:99999", "localhost:", "a..:1", "[::1%25lo]:5000", "[1.2.3.4]:1", "[::1", "::1:5000",
	} {
		if ref, err := Parse(s + "/x"); !errors.Is(err, ErrInvalidReference) {
			t.Errorf("%q is accepted as %q", s, ref)
		}
	}
}

// FuzzCanonical: a reference's form dials what was written, and is the form of itself.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"localhost:06005", "A.b:443", "[::1]:5000", "[::FFFF:7f00:1]", "docker.io.", "1.2.3.4:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := Parse(s + "/team/x")
		if err != nil || !strings.HasPrefix(s, ref.Host) && ref.Repo != "team/x" {
			return
		}
		if again, err := Parse(ref.String()); err != nil || again != ref {
			t.Fatalf("%q gives %q, which gives %q, %v", s, ref, again, err)
		}
		if ref.Repo == "team/x" && ref.Host != defaultHost && dialled(t, s) != dialled(t, ref.Host) {
			t.Fatalf("%q dials %s, %q dials %s", s, dialled(t, s), ref.Host, dialled(t, ref.Host))
		}
	})
}

func TestPatterns(t *testing.T) {
	for _, x := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "docker.io/library/a", true},
		{"Localhost:06005/*", "localhost:6005/x", true},
		{"REG.example:443/a/*", "reg.example/a/b/c", true},
		{"*:443/*", "reg.example/a", true},
		{"*:443/*", "reg.example:5000/a", false},
		{"*.EXAMPLE/a", "reg.example/a", true},
		{"index.docker.io/*", "docker.io/library/a", true},
		{"[::1]:5000/*", "[::1]:5000/a", true},
		{"[0:0::1]:*/a", "[::1]:5000/a", true},
		{"[::1]:5000/*", "1:5000/a", false},
		{"[::ffff:127.0.0.1]:5/*", "127.0.0.1:5/a", true},
		{"reg.exampl[a-f]/a", "reg.example/a", true},
		{"reg.example/a", "reg.example/ab", false},
		{"*:V1", "reg.example/a:V1", true},
		{"*Reg.example*", "reg.example/a", true},
	} {
		p, err := ParsePattern(x.pattern)
		if err != nil || p.Matches(x.name) != x.want {
			t.Errorf("%q and %q: %v, want %v", x.pattern, x.name, err, x.want)
		}
	}
	for _, bad := range []string{"a[/b", `a/b\`, "a:70000/b", "[::zz]:1/b"} {
		if _, err := ParsePattern(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestHostDirSpellings: the directories in certs.d are found however they are spelled.
func TestHostDirSpellings(t *testing.T) {
	for n, x := range map[string]struct {
		host, want string
		dirs       []string
	}{
		"as it is":     {"localhost:6005", "localhost:6005", []string{"localhost:6005", "LOCALHOST:06005", "_default"}},
		"no colon":     {"localhost:6005", "localhost_6005_", []string{"localhost:6005", "localhost_6005_"}},
		"capitals":     {"localhost:6005", "LocalHost:6005", []string{"LocalHost:6005", "_default"}},
		"zeros":        {"localhost:6005", "localhost_06005_", []string{"localhost_06005_", "_default"}},
		"default port": {"reg.example", "reg.example:443", []string{"reg.example:443", "_default"}},
		"IPv6":         {"[::1]:5000", "[0:0::1]_5000_", []string{"[0:0::1]_5000_"}},
		"hub":          {"docker.io", "registry-1.docker.io", []string{"registry-1.docker.io", "_default"}},
		"default":      {"reg.example", "_default", []string{"reg.example:5000", "_default"}},
		"none":         {"reg.example", "", []string{"reg.example:5000"}},
	} {
		root := t.TempDir()
		for _, d := range x.dirs {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		got, err := hostDir([]string{filepath.Join(root, "absent"), root}, x.host)
		if want := filepath.Join(root, x.want); err != nil || got != want && (got != "" || x.want != "") {
			t.Errorf("%s: %q, %v", n, got, err)
		}
	}
}
