package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

func newJournal(t *testing.T) (*journalWriter, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), journal)
	j, err := createJournal(name)
	if err != nil {
		t.Fatal(err)
	}
	return j, name
}

// records reads a journal, with raw records that follow each other joined.
func records(t *testing.T, name string) (list []rec, err error) {
	t.Helper()
	j, err := openJournal(name)
	if err != nil {
		return nil, err
	}
	defer j.close()
	for {
		r, err := j.next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		r.raw = slices.Clone(r.raw)
		if k := len(list) - 1; r.kind == recRaw && k >= 0 && list[k].kind == recRaw {
			list[k].raw = append(list[k].raw, r.raw...)
			continue
		}
		list = append(list, r)
	}
}

func TestJournalGivesRecordsBack(t *testing.T) {
	j, name := newJournal(t)
	long := bytes.Repeat([]byte("0123456789abcdef"), maxRaw/8) // two records
	if err := errors.Join(j.addRaw([]byte("head")), j.addRaw([]byte("er")), j.addData("a/b", 7, 1<<40),
		j.addData("ä\n", 0, 1), j.addMoved("a", 3), j.addRaw(long), j.close(true)); err != nil {
		t.Fatal(err)
	}
	want := []rec{
		{kind: recRaw, raw: []byte("header")}, {kind: recData, path: "a/b", off: 7, n: 1 << 40},
		{kind: recData, path: "ä\n", n: 1}, {kind: recMoved, path: "a", n: 3}, {kind: recRaw, raw: long},
	}
	got, err := records(t, name)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d records, %v, want %d", len(got), err, len(want))
	}
	for i, w := range want {
		if g := got[i]; g.kind != w.kind || g.path != w.path || g.off != w.off || g.n != w.n || !bytes.Equal(g.raw, w.raw) {
			t.Errorf("record %d is of kind %d, %q at %d, %d; want kind %d, %q at %d, %d", i, g.kind, g.path, g.off, g.n, w.kind, w.path, w.off, w.n)
		}
	}
	if _, err := createJournal(name); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second journal of that name gave %v", err)
	}
}

func TestJournalDamaged(t *testing.T) {
	write := func(content ...byte) string {
		j, name := newJournal(t)
		if _, err := j.w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := j.close(true); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for what, name := range map[string]string{
		"unknown kind":   write(99, 1, 'x'),
		"no length":      write(recRaw),
		"too long":       write(recRaw, 0xff, 0xff, 0xff, 0x7f),
		"cut off":        write(recRaw, 5, 'a', 'b'),
		"no numbers":     write(recData, 1, 'a'),
		"one number":     write(recData, 1, 'a', 1),
		"no number":      write(recMoved, 1, 'a'),
		"endless number": write(append([]byte{recMoved, 1, 'a'}, bytes.Repeat([]byte{0xff}, 12)...)...),
	} {
		if _, err := records(t, name); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", what, err)
		}
	}
	plain := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(plain, []byte("no zstd"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := records(t, plain); !errors.Is(err, ErrDamaged) {
		t.Errorf("no journal at all: got %v, want ErrDamaged", err)
	}
	if err := Assemble(t.TempDir(), io.Discard); !errors.Is(err, ErrDamaged) {
		t.Errorf("a directory that is no layer: got %v, want ErrDamaged", err)
	}
}

// TestRecorderKeepsEveryByte has the tar reader read through a recorder in pieces of
// many sizes: what it put into the file's buffer and what is in the journal are together
// the archive, in order.
func TestRecorderKeepsEveryByte(t *testing.T) {
	data := archive(t, file("a", strings.Repeat("a", 3*tarBlock+5)), file("b", ""), file("c", strings.Repeat("c", blockSize+1)))
	for what, src := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
		"halves": iotest.HalfReader, "data with EOF": iotest.DataErrReader,
	} {
		j, name := newJournal(t)
		rc := newRecorder(src(bytes.NewReader(data)), j, 1<<20)
		tr, buf := tar.NewReader(rc), make([]byte, 1000)
		contents, noted := map[string]string{}, 0
		for {
			hdr, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for {
				n, err := rc.fill(tr, buf)
				for _, f := range rc.frags {
					contents[hdr.Name] += string(buf[f.off : f.off+f.n])
					noted += f.n
				}
				if n == 0 || err != nil {
					break
				}
			}
		}
		if err := errors.Join(rc.drain(), j.close(true)); err != nil {
			t.Fatal(err)
		}
		raw := 0
		list, err := records(t, name)
		for _, r := range list {
			raw += len(r.raw)
		}
		if err != nil || raw+noted != len(data) || rc.total != int64(len(data)) {
			t.Errorf("%s: %d bytes in the journal and %d in files, %v; want %d", what, raw, noted, err, len(data))
		}
		if contents["a"] != strings.Repeat("a", 3*tarBlock+5) || len(contents["c"]) != blockSize+1 {
			t.Errorf("%s: the files have %d and %d bytes", what, len(contents["a"]), len(contents["c"]))
		}
	}
}

const tarBlock = 512

func TestRecorderNotesOnlyItsBuffer(t *testing.T) {
	c := &recorder{}
	buf := make([]byte, 100)
	if c.note(buf) {
		t.Error("a buffer was noted while none is filled")
	}
	c.into = buf[:80]
	for what, p := range map[string][]byte{"another's": make([]byte, 10), "longer": make([]byte, 200), "past its end": buf[79:90]} {
		if c.note(p) {
			t.Errorf("%s bytes were noted", what)
		}
	}
	if !c.note(buf[10:20]) || !c.note(buf[20:30]) || !c.note(buf[50:60]) {
		t.Error("parts of the buffer were not noted")
	}
	if want := []fragment{{10, 20}, {50, 10}}; !slices.Equal(c.frags, want) {
		t.Errorf("noted %v, want %v", c.frags, want)
	}
}

func TestRecorderLimit(t *testing.T) {
	j, _ := newJournal(t)
	defer j.close(false)
	if err := newRecorder(zeros{}, j, 1000).drain(); !errors.Is(err, ErrArchive) {
		t.Errorf("more than the limit gave %v, want ErrArchive", err)
	}
}

func TestPathLists(t *testing.T) {
	paths := []string{"usr", "usr/lib", "usr/lib/x", "var", "usr/lib", "", "ä/\n"}
	name := filepath.Join(t.TempDir(), "list")
	l := pathList{name: name}
	var times dirTimes
	for i, p := range paths {
		if err := l.add(p); err != nil {
			t.Fatal(err)
		}
		times.add(p, [2]unix.Timespec{{Sec: int64(i)}, {Sec: 1 << 33, Nsec: 999_999_999}})
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := eachPath(name, func(p string) error { got = append(got, p); return nil }); err != nil || !slices.Equal(got, paths) {
		t.Errorf("the list is %q, %v, want %q", got, err, paths)
	}
	got = nil
	err := times.each(func(p string, ts [2]unix.Timespec) error {
		if ts[0].Sec != int64(len(got)) || ts[1] != (unix.Timespec{Sec: 1 << 33, Nsec: 999_999_999}) {
			t.Errorf("%q has the times %v", p, ts)
		}
		got = append(got, p)
		return nil
	})
	if err != nil || !slices.Equal(got, paths) || len(times.list) != 0 {
		t.Errorf("the times are of %q, %v, want %q and an empty list", got, err, paths)
	}
	stop := errors.New("stop")
	if err := eachPath(name, func(string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the function's error came as %v", err)
	}
	if bytes, inodes := ListUsage(filepath.Dir(name)); bytes != 0 || inodes != 0 {
		t.Errorf("other files count as lists: %d, %d", bytes, inodes)
	}
	for what, damage := range map[string][]byte{"cut off": {0, 5, 'a'}, "of nothing": {9, 1, 'a'}, "no length": {0}, "too long": {0, 0xff, 0xff, 0x7f}} {
		if err := os.WriteFile(name, damage, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := eachPath(name, func(string) error { return nil }); err == nil {
			t.Errorf("%s: a damaged list was read", what)
		}
	}
	if none := (&pathList{name: name + "2"}).close(); none != nil {
		t.Error(none)
	}
	if _, err := os.Stat(name + "2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a list without a path has a file: %v", err)
	}
}

func TestLocateFollowsMoves(t *testing.T) {
	// The archive wrote a/f, replaced it (0), wrote it again and replaced all of a (1).
	s := assembler{moved: map[string][]move{"a/f": {{5, 0}}, "a": {{9, 1}}}}
	for _, c := range []struct {
		seq        int
		path, want string
	}{
		{1, "a/f", "shadow/0"}, {2, "a/g", "shadow/1/g"}, {3, "b/a", "fs/b/a"}, {6, "a/f", "shadow/1/f"},
		{7, "ab", "fs/ab"}, {10, "a/f", "fs/a/f"}, {11, "a", "fs/a"},
	} {
		if got := s.locate(c.seq, c.path); got != c.want {
			t.Errorf("at record %d, %s is %s, want %s", c.seq, c.path, got, c.want)
		}
	}
	if len(s.moved) != 0 {
		t.Errorf("moves are kept after the last record they are for: %v", s.moved)
	}
}
