package layer

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func TestVerifyTellsWhatChanged(t *testing.T) {
	data := archive(t, folder("d", 0o755), file("d/f", "content"), symlink("l", "d/f"), link("h", "d/f"))
	for name, c := range map[string]struct {
		change func(fs string) error
		want   string
	}{
		"nothing":  {func(string) error { return nil }, ""},
		"removed":  {func(fs string) error { return os.Remove(fs + "/l") }, "l: missing"},
		"no tree":  {func(fs string) error { return os.Rename(fs+"/d", fs+"/e") }, "d/f: resolve"},
		"mode":     {func(fs string) error { return os.Chmod(fs+"/d", 0o700) }, "d: has the mode 700, not 755"},
		"owner":    {func(fs string) error { return os.Lchown(fs+"/d", 7, 8) }, "d: belongs to 7:8, not 0:0"},
		"shorter":  {func(fs string) error { return os.Truncate(fs+"/d/f", 3) }, "d/f is too short"},
		"time":     {func(fs string) error { return os.Chtimes(fs+"/d/f", time.Now(), time.Now()) }, "d/f: was changed"},
		"type":     {func(fs string) error { return errors.Join(os.Remove(fs+"/l"), os.Mkdir(fs+"/l", 0o755)) }, "l: is of another type"},
		"fs gone":  {os.RemoveAll, "fs"},
		"new link": {func(fs string) error { return relink(fs+"/l", "elsewhere") }, `l: leads to "elsewhere", not "d/f"`},
		"content":  {func(fs string) error { return rewrite(fs+"/d/f", "CONTENT") }, "its content has the digest"},
		"journal": {func(fs string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(fs), journal), []byte("x"), 0o600)
		},
			"is no layer journal"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := apply(t, data)
			if err := c.change(filepath.Join(dir, FSDir)); err != nil {
				t.Fatal(err)
			}
			faults, err := Verify(t.Context(), dir, digest.FromBytes(data))
			if err != nil {
				t.Fatal(err)
			}
			if all := strings.Join(faults, "; "); c.want == "" && all != "" || !strings.Contains(all, c.want) {
				t.Errorf("told %q, want %q", all, c.want)
			}
		})
	}
}

// relink has a link lead elsewhere, with the time it had.
func relink(name, to string) error {
	times := []unix.Timespec{{Sec: when.Unix()}, {Sec: when.Unix()}}
	return errors.Join(os.Remove(name), os.Symlink(to, name), unix.UtimesNanoAt(unix.AT_FDCWD, name, times, unix.AT_SYMLINK_NOFOLLOW))
}

// rewrite changes a file's content, not its size and time.
func rewrite(name, content string) error {
	return errors.Join(os.WriteFile(name, []byte(content), 0), os.Chtimes(name, when, when))
}

func TestVerifyBoundsItsReport(t *testing.T) {
	var ents []ent
	for i := range 3 * maxFaults {
		ents = append(ents, file(strings.Repeat("f", i+1), "x"))
	}
	data := archive(t, ents...)
	dir, _ := apply(t, data)
	for i := range ents {
		if err := os.Chmod(filepath.Join(dir, FSDir, ents[i].Name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	faults, err := Verify(t.Context(), dir, digest.FromBytes(data))
	if err != nil || len(faults) != maxFaults {
		t.Errorf("%d faults, %v, want %d", len(faults), err, maxFaults)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if _, err := Verify(ctx, dir, digest.FromBytes(data)); !errors.Is(err, gone) {
		t.Errorf("with a context that ended: %v", err)
	}
}

func TestKeptTime(t *testing.T) {
	const y2038, y2446 = 1<<31 - 1, 15032385535
	for _, c := range []struct {
		has, want int64
		kept      bool
	}{{5, 5, true}, {5, 6, false}, {y2038, y2446, true}, {y2446, 1<<34 - 1, true}, {y2446 + 1, y2446, false}, {y2038 - 1, y2446, false}} {
		if keptTime(c.has, c.want) != c.kept {
			t.Errorf("%d for %d: want kept %v", c.has, c.want, c.kept)
		}
	}
}

func TestTimespec(t *testing.T) {
	for at, want := range map[time.Time]unix.Timespec{
		{}: {}, time.Unix(-5, 1): {}, time.Unix(7, 8): {Sec: 7, Nsec: 8}, time.Unix(1<<40, 0): {Sec: 1<<34 - 1},
	} {
		if got := timespec(at); got != want {
			t.Errorf("%v is %v, want %v", at, got, want)
		}
	}
	hdr := &tar.Header{ModTime: time.Unix(5, 0)}
	if got := timesOf(hdr); got[0].Sec != 5 || got[1].Sec != 5 {
		t.Errorf("without an access time it is %v, want that of the change", got)
	}
	hdr.AccessTime = time.Unix(9, 0)
	if got := timesOf(hdr); got[0].Sec != 9 || got[1].Sec != 5 {
		t.Errorf("the times are %v, want 9 and 5", got)
	}
}

func TestMayBring(t *testing.T) {
	for key, want := range map[string]bool{
		"security.capability": true, "security.ima": true, "user.anything": true, "system.posix_acl_access": true,
		"security.selinux": false, "security.SMACK64": false, "security.apparmor": false, "trusted.overlay.opaque": false,
		"trusted.overlay.redirect": false, "user.overlay.opaque": false, "": false,
	} {
		if mayBring(key) != want {
			t.Errorf("%q: want %v", key, want)
		}
	}
}

func TestXattrs(t *testing.T) {
	with := func(e ent, records map[string]string) ent {
		e.PAXRecords, e.Format, e.ModTime = records, tar.FormatPAX, when
		return e
	}
	records := map[string]string{xattrPrefix + "trusted.overlay.redirect": "/etc", xattrPrefix + "trusted.x": "1", xattrPrefix + "user.ok": "yes"}
	dir, _ := apply(t, archive(t, with(file("f", "x"), records), with(folder("d", 0o755), records)))
	for _, name := range []string{"f", "d"} {
		path := filepath.Join(dir, FSDir, name)
		for _, key := range []string{"trusted.overlay.redirect", "trusted.x"} {
			if _, err := unix.Lgetxattr(path, key, nil); !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
				t.Errorf("%s has the attribute %s: %v", name, key, err)
			}
		}
		value := make([]byte, 10)
		n, err := unix.Lgetxattr(path, "user.ok", value)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			t.Skip("no such attributes here")
		}
		if err != nil || string(value[:n]) != "yes" {
			t.Errorf("%s: user.ok is %q, %v", name, value[:max(n, 0)], err)
		}
	}
	bad := with(file("f", "x"), map[string]string{xattrPrefix + capXattr: "no capability"})
	if err := unpack(t, Limits{}, archive(t, bad)); err == nil {
		t.Error("a file whose capabilities can't be set was unpacked")
	}
}

func TestClean(t *testing.T) {
	for name, want := range map[string]string{
		"a/b": "a/b", "/a//b/": "a/b", "./a/./b": "a/b", "": "", "/": "", ".": "",
	} {
		if got := clean(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}
