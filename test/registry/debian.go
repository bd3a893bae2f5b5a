package registry

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// debian is a directory into which Debian packages are unpacked.
type debian struct{ cache, root string }

// openDebian locks the cache against other test processes; close frees it.
func openDebian() (d debian, unlock func(), err error) {
	cache, err := cacheDir()
	if err != nil {
		return d, nil, err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return d, nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return d, nil, errors.Join(err, lock.Close())
	}
	return debian{cache: cache, root: filepath.Join(cache, "root")}, func() { lock.Close() }, nil
}

// cacheDir is $BERTH_TEST_CACHE or bin/test-cache of the repository.
func cacheDir() (string, error) {
	dir := os.Getenv("BERTH_TEST_CACHE")
	if dir == "" {
		repo, err := repository()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(repo, "bin", "test-cache")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// repository is the directory of berth's go.mod, at or above the working directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(data, []byte("module berth\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not started inside berth's repository; set BERTH_TEST_CACHE")
		}
		dir = filepath.Dir(dir)
	}
}

// unpack makes sure that packages and the libraries they depend on are in root.
func (d debian) unpack(packages ...string) error {
	marker := filepath.Join(d.root, "."+strings.Join(packages, "+"))
	if _, err := os.Stat(marker); err == nil {
		return nil
	}
	all, err := closure(packages)
	if err != nil {
		return err
	}
	debs, err := os.MkdirTemp(d.cache, "debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	// As root, apt would fetch as a user that can't write to a private directory.
	args := append([]string{"download", "-q", "-o", "APT::Sandbox::User=root"}, all...)
	if err := command(debs, "apt-get", args...); err != nil {
		return fmt.Errorf("%w (does apt-get update help?)", err)
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := command(d.cache, "dpkg", "-x", f, d.root); err != nil {
			return err
		}
	}
	return os.WriteFile(marker, nil, 0o644)
}

// closure adds the libraries that packages depend on, and theirs; other
// dependencies are maintenance programs that no image here needs.
func closure(packages []string) ([]string, error) {
	all, next := slices.Clone(packages), packages
	for len(next) > 0 {
		args := append([]string{"depends", "--no-recommends", "--no-suggests", "--no-conflicts",
			"--no-breaks", "--no-replaces", "--no-enhances"}, next...)
		out, err := exec.Command("apt-cache", args...).Output()
		if err != nil {
			return nil, fmt.Errorf("apt-cache depends %v: %w", next, err)
		}
		next = nil
		for _, pkg := range dependencies(out) {
			isLibrary := strings.HasPrefix(pkg, "lib") || strings.HasPrefix(pkg, "zlib")
			if isLibrary && !slices.Contains(all, pkg) {
				all, next = append(all, pkg), append(next, pkg)
			}
		}
	}
	return all, nil
}

// dependencies are the packages that `apt-cache depends` tells of. After a name that only
// others provide, as libssl3t64 does libssl3, these follow a line each; the first is taken.
func dependencies(out []byte) (packages []string) {
	virtual := false
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		kind, pkg, ok := strings.Cut(strings.TrimSpace(s.Text()), "Depends: ")
		if virtual && !ok {
			kind, pkg, ok = "", kind, true
		}
		virtual = ok && strings.HasPrefix(pkg, "<")
		if ok && !virtual && (kind == "" || kind == "Pre") {
			packages = append(packages, pkg)
		}
	}
	return packages
}

func command(dir, name string, args ...string) error {
	c := exec.Command(name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// at is where a file of an unpacked package is: since Debian 13 what was in /bin
// and /lib is below /usr in the packages, too.
func (d debian) at(file string) string {
	if path := filepath.Join(d.root, file); exists(path) {
		return path
	}
	return filepath.Join(d.root, "usr", file)
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

// program returns a program of an unpacked package as a file at path, with the
// loader and every library it needs.
func (d debian) program(from, path string) ([]File, error) {
	files := []File{{Path: path, Mode: 0o755, From: d.at(from)}}
	have := map[string]bool{}
	for i := 0; i < len(files); i++ {
		needed, err := needs(files[i].From)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		for _, n := range needed {
			if have[filepath.Base(n)] {
				continue
			}
			have[filepath.Base(n)] = true // libc names the loader as a library, too
			f, err := d.library(n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", from, err)
			}
			files = append(files, f)
		}
	}
	return files, nil
}

// needs lists the loader (an absolute path) and the libraries of an ELF file.
func needs(file string) ([]string, error) {
	e, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	libs, err := e.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			buf := make([]byte, p.Filesz)
			if _, err := p.ReadAt(buf, 0); err != nil {
				return nil, err
			}
			libs = append([]string{string(bytes.TrimRight(buf, "\x00"))}, libs...)
		}
	}
	return libs, nil
}

func (d debian) library(name string) (File, error) {
	for _, pattern := range []string{"lib/*/", "usr/lib/*/", "lib64/", "usr/lib64/", "lib/", "usr/lib/"} {
		found, _ := filepath.Glob(filepath.Join(d.root, pattern+filepath.Base(name)))
		if len(found) == 0 {
			continue
		}
		at := name // the loader is where the program says
		if !filepath.IsAbs(name) {
			rel, err := filepath.Rel(d.root, found[0])
			if err != nil {
				return File{}, err
			}
			at = "/" + rel
		}
		from, err := resolve(d.root, found[0])
		return File{Path: at, Mode: 0o755, From: from}, err
	}
	return File{}, fmt.Errorf("library %s is in none of the packages", name)
}

// resolve follows a package's symbolic links, whose targets mean root as /.
func resolve(root, file string) (string, error) {
	for range 8 {
		target, err := os.Readlink(file)
		if err != nil {
			_, err = os.Stat(file)
			return file, err
		}
		if filepath.IsAbs(target) {
			file = filepath.Join(root, target)
		} else {
			file = filepath.Join(filepath.Dir(file), target)
		}
	}
	return "", fmt.Errorf("%s: too many links", file)
}
