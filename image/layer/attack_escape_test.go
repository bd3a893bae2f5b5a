package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Archives of layers whose names, links, attributes or whiteouts point out of
// the directory that they are unpacked into.
func TestAttackLayer(t *testing.T) {
	up := strings.Repeat("../", 40)
	device := func(name string, kind byte, major, minor int64) ent {
		return ent{tar.Header{Name: name, Typeflag: kind, Mode: 0o666, Devmajor: major, Devminor: minor}, ""}
	}
	xattr := func(name, key, value string) ent {
		return ent{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr." + key: value}}, ""}
	}
	for _, c := range []struct {
		name string
		ents func(out string) []ent // out is a directory outside, with a file secret
		// must is part of the error of an archive that has to be refused; of
		// another one what was unpacked has to be below the directory.
		must  string
		check func(t *testing.T, fs string)
	}{
		{name: "CVE-2014-9357_file_by_..", ents: func(out string) []ent { return []ent{file(up+out[1:]+"/planted", "x")} }},
		{name: "CVE-2018-15664_file_through_a_link_up", ents: func(out string) []ent { return []ent{symlink("a", up+out[1:]), file("a/planted", "x")} }},
		{name: "CVE-2019-14271_library_through_an_absolute_link", ents: func(out string) []ent { return []ent{symlink("lib", out), file("lib/planted", "x")} }},
		{name: "CVE-2014-9356_absolute_name", ents: func(out string) []ent { return []ent{file(out+"/planted", "x")} }},
		{name: "CVE-2014-6407_hard_link_out", ents: func(out string) []ent { return []ent{link("a", up+out[1:]+"/secret"), file("a", "planted")} }, must: "not in this layer"},
		{name: "hard_link_to_an_absolute_name", ents: func(out string) []ent { return []ent{link("a", out+"/secret")} }, must: "not in this layer"},
		{name: "hard_link_through_a_link", ents: func(out string) []ent { return []ent{symlink("d", out), link("a", "d/secret")} }, must: "not in this layer"},
		{name: "hard_link_to_a_link_and_written_through", ents: func(out string) []ent {
			return []ent{symlink("s", out+"/secret"), link("h", "s"), file("h", "planted")}
		}},
		{name: "file_over_a_link", ents: func(out string) []ent { return []ent{symlink("s", out+"/secret"), file("s", "planted")} }},
		{name: "directory_over_a_link", ents: func(out string) []ent {
			return []ent{symlink("d", out), folder("d", 0o777), file("d/planted", "x")}
		}},
		{name: "mode_of_a_link's_target", ents: func(out string) []ent {
			return []ent{symlink("s", out+"/secret"), {tar.Header{Name: "s", Typeflag: tar.TypeSymlink, Linkname: out + "/secret", Mode: 0o4777, Uid: 7}, ""}}
		}},
		{name: "directory_turned_into_a_link", ents: func(out string) []ent {
			return []ent{folder("d", 0o755), file("d/x", "1"), symlink("d", out), file("d/planted", "x")}
		}},
		{name: "link_of_links_up", ents: func(out string) []ent {
			return []ent{symlink("a", "b"), symlink("b", ".."), symlink("c", "a/a/a/a"+out), file("c/planted", "x")}
		}},
		{name: "link_to_/proc/self", ents: func(out string) []ent {
			return []ent{symlink("p", "/proc/self/root"), symlink("q", "/proc/self/cwd"), file("p"+out+"/planted", "x"), file("q"+out+"/planted", "x")}
		}},
		{name: "links_in_a_circle", ents: func(string) []ent { return []ent{symlink("a", "b"), symlink("b", "a"), file("a/x", "x")} }, must: "symbolic links"},
		{name: "dots_in_the_middle", ents: func(out string) []ent { return []ent{folder("a", 0o755), file("a/../../../.."+out+"/planted", "x")} }},
		{name: "name_of_nothing", ents: func(string) []ent { return []ent{file("..", "x")} }, must: "root"},
		{name: "the_root_as_a_link", ents: func(out string) []ent { return []ent{symlink("./", out), file("planted", "x")} }, must: "root"},
		{name: "whiteout_of_..", ents: func(string) []ent { return []ent{file("d/.wh...", "")} }, must: "whiteout"},
		{name: "whiteout_of_.", ents: func(string) []ent { return []ent{file("d/.wh..", "")} }, must: "whiteout"},
		{name: "whiteout_of_nothing", ents: func(string) []ent { return []ent{file(".wh.", "")} }, must: "whiteout"},
		{name: "whiteout_through_a_link", ents: func(out string) []ent { return []ent{symlink("d", out), file("d/.wh.secret", "")} }},
		{name: "whiteout_through_..", ents: func(out string) []ent { return []ent{file(up+out[1:]+"/.wh.secret", "")} }},
		{name: "opaque_through_a_link", ents: func(out string) []ent { return []ent{symlink("d", out), file("d/.wh..wh..opq", "")} }},
		{name: "opaque_twice_as_a_directory", ents: func(string) []ent { return []ent{folder("d/.wh..wh..opq", 0o755), file("d/.wh..wh..opq/x", "")} }},
		{name: "whiteout_as_a_hard_link", ents: func(out string) []ent {
			return []ent{file("a", "1"), link("d/.wh.x", "a"), link("d/.wh..wh..opq", out+"/secret")}
		}},
		{name: "whiteout_by_a_device_of_the_archive", ents: func(string) []ent { return []ent{device("gone", tar.TypeChar, 0, 0)} }},
		{name: "overlay_redirect", ents: func(string) []ent {
			return []ent{xattr("f", "trusted.overlay.redirect", "/../../etc"), xattr("g", "trusted.overlay.metacopy", ""), xattr("h", "user.overlay.redirect", "/etc"),
				xattr("i", "trusted.overlay.opaque", "y"), xattr("k", "trusted.overlay.origin", "x")}
		}, check: noXattrs},
		{name: "label_of_another_by_xattr", ents: func(string) []ent {
			return []ent{xattr("f", "security.selinux", "system_u:object_r:shadow_t:s0"), xattr("g", "security.SMACK64", "_"), xattr("h", "security.apparmor", "unconfined"), xattr("i", "system.posix_acl_access", "x")}
		}, check: noXattrs},
		{name: "names_that_differ_by_case", ents: func(out string) []ent {
			return []ent{symlink("Dir", out), folder("dir", 0o755), file("dir/planted", "x"), file("DIR/planted", "x")}
		}},
		{name: "one_name_as_everything", ents: func(out string) []ent {
			return []ent{file("n", "1"), folder("n", 0o755), symlink("n", out), device("n", tar.TypeFifo, 0, 0), link("n", "n"), file("n", "2")}
		}},
		{name: "name_longer_than_the_kernel_takes", ents: func(string) []ent { return []ent{file(strings.Repeat("n", 300), "x")} }, must: "too long"},
		{name: "the_journal's_own_name", ents: func(string) []ent {
			return []ent{file("../journal", "x"), file("../"+FSDir, "x"), file("../../layer", "x"), symlink("../"+FSDir, "/etc")}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := t.TempDir()
			out := filepath.Join(base, "outside")
			if err := os.Mkdir(out, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(out, "secret"), []byte("of the host"), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(base, "in", "layer")
			if err := os.Mkdir(filepath.Dir(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := Apply(t.Context(), dir, bytes.NewReader(archive(t, c.ents(out)...)), Limits{})
			if (c.must != "") != (err != nil) || err != nil && !strings.Contains(err.Error(), c.must) {
				t.Errorf("the error is %v, want %q", err, c.must)
			}
			untouched(t, base, out)
			if err == nil && c.check != nil {
				c.check(t, filepath.Join(dir, FSDir))
			}
		})
	}
}

// untouched wants outside what was there, and nothing but "in" beside it.
func untouched(t *testing.T, base, out string) {
	t.Helper()
	for dir, want := range map[string]string{base: "in outside", out: "secret", filepath.Join(base, "in"): "layer"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != want && got != "" {
			t.Errorf("in %s are %q, want %q", dir, got, want)
		}
	}
	st := stat(t, out, "secret")
	if content(t, out, "secret") != "of the host" || st.Mode != unix.S_IFREG|0o600 || st.Uid != uint32(os.Geteuid()) || st.Nlink != 1 {
		t.Errorf("the file outside was changed: mode %o, owner %d, %d links", st.Mode, st.Uid, st.Nlink)
	}
	if st := stat(t, out); st.Mode != unix.S_IFDIR|0o700 {
		t.Errorf("the directory outside has mode %o", st.Mode)
	}
	if n, err := unix.Listxattr(out, nil); err == nil && n > 0 {
		t.Error("the directory outside has attributes")
	}
}

// noXattrs wants no attributes on what was unpacked.
func noXattrs(t *testing.T, fs string) {
	t.Helper()
	entries, err := os.ReadDir(fs)
	if err != nil || len(entries) == 0 {
		t.Errorf("%v, %v", entries, err)
	}
	for _, e := range entries {
		names := make([]byte, 1024)
		if n, err := unix.Llistxattr(filepath.Join(fs, e.Name()), names); err == nil && n > 0 {
			t.Errorf("%s has %q", e.Name(), names[:n])
		}
	}
}
