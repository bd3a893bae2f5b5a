package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// space is what something takes of a disk.
type space struct{ bytes, inodes uint64 }

func (s space) plus(o space) space { return space{s.bytes + o.bytes, s.inodes + o.inodes} }

// spaceOf is what one file takes.
func spaceOf(path string) (space, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return space{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return space{uint64(st.Blocks) * 512, 1}, nil
}

// du asks the program what layers/ and images/ take.
func (v *verifier) du(ctx context.Context) (space, error) {
	var out space
	for flag, sum := range map[string]*uint64{"--block-size=1": &out.bytes, "--inodes": &out.inodes} {
		c := exec.CommandContext(ctx, "du", "-s", flag, filepath.Join(v.node.Root, "layers"), filepath.Join(v.node.Root, "images"))
		text, err := c.Output()
		if err != nil {
			return out, fmt.Errorf("du: %w", err)
		}
		for line := range strings.Lines(string(bytes.TrimSpace(text))) {
			var n uint64
			if _, err := fmt.Sscan(line, &n); err != nil {
				return out, fmt.Errorf("du said %q: %w", line, err)
			}
			*sum += n
		}
	}
	return out, nil
}

// tree is a layer's directory in short.
type tree struct {
	space
	content string // digest of names, modes, owners, links and data below fs/
}

func readTree(dir string) (tree, error) {
	var t tree
	sum := sha256.New()
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		if !seen[st.Ino] {
			t.space = t.plus(space{uint64(st.Blocks) * 512, 1})
		}
		seen[st.Ino] = true
		name := strings.TrimPrefix(path, dir)
		if !strings.HasPrefix(name, "/fs") {
			return nil // the journal: only berth's check can tell
		}
		fmt.Fprintf(sum, "%s %o %d:%d %d %d\n", name, st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev)
		return content(sum, path, st.Mode)
	})
	t.content = fmt.Sprintf("%x", sum.Sum(nil))[:16]
	return t, err
}

// content adds what is in a file or link.
func content(sum hash.Hash, path string, mode uint32) error {
	var data []byte
	var err error
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err = os.ReadFile(path)
	case unix.S_IFLNK:
		var to string
		to, err = os.Readlink(path)
		data = []byte(to)
	}
	_, _ = sum.Write(data) // never fails
	return err
}
