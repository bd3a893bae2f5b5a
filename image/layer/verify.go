package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// maxFaults is how many faults of one layer are reported.
const maxFaults = 20

// Verify compares a layer directory with the archive from which it was made: the content by
// the digest want of the uncompressed archive, and owner, mode, size, time and link target
// of each entry. It returns the differences as texts, none if the layer is intact.
func Verify(ctx context.Context, dirPath string, want digest.Digest) ([]string, error) {
	pr, pw := io.Pipe()
	defer context.AfterFunc(ctx, func() { pr.CloseWithError(context.Cause(ctx)) })() // always nil
	sum := digest.SHA256.Digester()
	assembled := make(chan error, 1)
	go func() { // ends with the archive, or when pr is closed below
		err := Assemble(dirPath, io.MultiWriter(sum.Hash(), pw))
		pw.CloseWithError(err) // always nil
		assembled <- err
	}()
	faults, err := compareEntries(dirPath, pr)
	if err == nil {
		_, err = io.Copy(io.Discard, pr)
	}
	pr.CloseWithError(err) // always nil
	if aerr := <-assembled; aerr != nil {
		err = aerr
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if errors.Is(err, ErrDamaged) || errors.Is(err, tar.ErrHeader) {
		return append(faults, err.Error()), nil
	}
	if err != nil {
		return nil, err
	}
	if got := sum.Digest(); got != want {
		faults = append(faults, fmt.Sprintf("its content has the digest %s, not %s", got, want))
	}
	return faults, nil
}

// compareEntries compares every header of the archive with the tree. If several entries have
// the same name, only the last one counts.
func compareEntries(dirPath string, r io.Reader) ([]string, error) {
	t, err := openTree(filepath.Join(dirPath, FSDir), nil)
	if err != nil {
		return nil, notThere(err)
	}
	defer t.close() //nolint:errcheck // O_PATH: nothing can be lost by closing
	t.limited, t.steps = true, firstSteps
	open := map[string]string{}
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, err
		}
		name := clean(hdr.Name)
		if name == "" || hdr.Typeflag == tar.TypeXGlobalHeader || isWhiteout(filepath.Base(name)) {
			continue
		}
		t.steps += stepsPerEntry
		fault := t.compare(name, hdr)
		settle(open, name, hdr)
		if t.steps < 0 { // the links of the tree have been changed; the digest covers the content
			break
		}
		if fault == "" {
			delete(open, name)
		} else if len(open) < 10*maxFaults {
			open[name] = fault
		}
	}
	return told(open), nil
}

// settle removes the faults of earlier entries that this entry has replaced: those of its
// own name and, unless it is a directory, those below it.
func settle(open map[string]string, name string, hdr *tar.Header) {
	if hdr.Typeflag != tar.TypeDir {
		maps.DeleteFunc(open, func(n, _ string) bool { return strings.HasPrefix(n, name+"/") })
	}
}

// told returns the faults as texts, at most [maxFaults] of them.
func told(open map[string]string) (faults []string) {
	for name, f := range open {
		faults = append(faults, name+": "+f)
	}
	slices.Sort(faults)
	return faults[:min(len(faults), maxFaults)]
}

var typeBits = map[byte]uint32{
	tar.TypeReg: unix.S_IFREG, '\x00': unix.S_IFREG, tar.TypeCont: unix.S_IFREG, tar.TypeGNUSparse: unix.S_IFREG,
	tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO,
}

// compare returns the differences between the header and the file in the tree, "" if there
// are none.
func (t *tree) compare(name string, hdr *tar.Header) string {
	p, base, err := t.parent(name, false)
	if err != nil {
		return "missing"
	}
	var st unix.Stat_t
	if err := unix.Fstatat(p.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return "missing"
	}
	if hdr.Typeflag == tar.TypeLink {
		return "" // a hard link: the entry of the file itself is compared
	}
	kind := typeBits[hdr.Typeflag]
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return fmt.Sprintf("is of another type (mode %o)", st.Mode)
	case kind == unix.S_IFREG && st.Size != hdr.Size:
		return fmt.Sprintf("has %d bytes, not %d", st.Size, hdr.Size)
	case kind != unix.S_IFDIR && !keptTime(st.Mtim.Sec, timespec(hdr.ModTime).Sec):
		return "was changed after it was unpacked"
	case kind == unix.S_IFLNK:
		return t.compareLink(p, base, hdr)
	}
	return compareOwner(&st, hdr)
}

// keptTime reports whether the time of a file is the wanted one, in seconds. A filesystem
// replaces a time beyond its range by its latest one: in 2038, 2446 or 2486 for the usual
// filesystems.
func keptTime(has, want int64) bool {
	return has == want || want > math.MaxInt32 && has >= math.MaxInt32 && has < want
}

func compareOwner(st *unix.Stat_t, hdr *tar.Header) string {
	switch {
	case st.Uid != uint32(hdr.Uid) || st.Gid != uint32(hdr.Gid):
		return fmt.Sprintf("belongs to %d:%d, not %d:%d", st.Uid, st.Gid, hdr.Uid, hdr.Gid)
	case st.Mode&unix.S_IFMT != unix.S_IFLNK && st.Mode&0o7777 != uint32(hdr.Mode)&0o7777:
		return fmt.Sprintf("has the mode %o, not %o", st.Mode&0o7777, hdr.Mode&0o7777)
	}
	return ""
}

func (t *tree) compareLink(p *dir, base string, hdr *tar.Header) string {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(p.fd, base, buf)
	if err != nil || string(buf[:n]) != hdr.Linkname {
		return fmt.Sprintf("leads to %.100q, not %.100q", buf[:max(n, 0)], hdr.Linkname)
	}
	return ""
}
