package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// search looks, until SIGTERM, for a way to the host's files through what /proc shows
// of other processes. Its arguments are the path of a file on the host, a word in the
// host's environment, and the comms of the processes to look at, with commas; none: all.
//
// It prints "way: …" for each way found and at the end "saw: …", the comms of the
// processes it could look at. The file is sought by number too, since a path may
// lead to it under another name.
func search(args []string) (int, error) {
	s := searcher{mark: args[0], word: []byte(args[1]), only: args[2], told: map[string]bool{}, saw: map[string]bool{}}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	fmt.Println("searching")
	for {
		select {
		case <-ended:
			fmt.Printf("saw: %s.\n", strings.Join(sortedKeys(s.saw), ", "))
			return 0, nil
		default:
			s.round()
		}
	}
}

func sortedKeys(set map[string]bool) []string {
	var all []string
	for k := range set {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

type searcher struct {
	mark      string
	word      []byte
	only      string
	told, saw map[string]bool
}

func (s *searcher) round() {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		if p == fmt.Sprint("/proc/", os.Getpid()) {
			continue
		}
		name, err := os.ReadFile(p + "/comm")
		if err != nil {
			continue // it has ended
		}
		comm := strings.TrimSpace(string(name))
		s.saw[comm] = true
		if s.only == "" || slices.Contains(strings.Split(s.only, ","), comm) {
			s.look(p, comm)
		}
	}
}

// found tells of a way once.
func (s *searcher) found(comm, way string) {
	if text := comm + " by " + way; !s.told[text] {
		s.told[text] = true
		fmt.Println("way:", text)
	}
}

func (s *searcher) look(p, comm string) {
	for _, dir := range []string{"root", "cwd", "task/" + filepath.Base(p) + "/root"} {
		s.climb(comm, dir, p+"/"+dir)
	}
	for _, kind := range []string{"fd", "map_files"} {
		files, _ := filepath.Glob(p + "/" + kind + "/*")
		for _, f := range files {
			s.climb(comm, kind, f)
			if kind == "fd" && comm == "pause" {
				s.found(comm, "an open descriptor")
			}
		}
	}
	if f, err := os.OpenFile(p+"/exe", os.O_WRONLY, 0); err == nil {
		_ = f.Close()
		s.found(comm, "writing to exe")
	}
	for _, file := range []string{"environ", "cmdline"} {
		if text, err := os.ReadFile(p + "/" + file); err == nil && bytes.Contains(text, s.word) {
			s.found(comm, file)
		}
	}
	s.join(p, comm)
}

// climb follows path up as far as it goes and down to the mark.
func (s *searcher) climb(comm, way, path string) {
	for _, up := range []string{"", strings.Repeat("/..", 24)} {
		if _, err := os.Stat(path + up + s.mark); err == nil {
			s.found(comm, way+up)
		}
	}
}

// join takes a descriptor of the mount namespace, enters it where the capabilities
// allow, and looks for the mark there.
func (s *searcher) join(p, comm string) {
	mine, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return
	}
	fd, err := unix.Open(p+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }() // only read
	its, err := os.Readlink(fmt.Sprint("/proc/self/fd/", fd))
	if err != nil || its == mine {
		return
	}
	// The test tells the inode of the host's namespace in place of a path.
	if os.Getenv("HOST_MNT") == its {
		s.found(comm, "ns/mnt")
	}
}
