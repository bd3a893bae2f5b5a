package image

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

var crashRounds = flag.Int("crash-rounds", 25, "how often TestCrash kills the store")

// crashEnv tells the test binary to be the process that is killed.
const crashEnv = "BERTH_IMAGE_CRASH"

func TestMain(m *testing.M) {
	if args := os.Getenv(crashEnv); args != "" {
		churn(args)
		return
	}
	if args := os.Getenv(attackEnv); args != "" {
		attacked(args)
		return
	}
	if args := os.Getenv(memoryEnv); args != "" {
		pullEight(args)
		return
	}
	os.Exit(m.Run())
}

// churn pulls and removes at random, by several clients, telling of each step,
// until it is killed.
func churn(args string) {
	root, host, _ := strings.Cut(args, " ")
	s, err := Open(Options{Root: root, retryBackoff: time.Millisecond})
	if err == nil {
		err = s.Sweep(context.Background())
	}
	if err != nil {
		fmt.Println("FAIL", err)
		os.Exit(1)
	}
	for range 4 {
		go func() {
			for {
				ref := host + "/app" + strconv.Itoa(rand.IntN(8))
				if rand.IntN(2) == 0 {
					err = s.Remove(context.Background(), ref)
				} else {
					_, err = s.Pull(context.Background(), PullRequest{Reference: ref, Progress: func(p Progress) { fmt.Println(p.Stage) }})
				}
				if err != nil {
					fmt.Println("FAIL", err)
				}
				fmt.Println("done")
			}
		}()
	}
	select {}
}

// crashRegistry has eight images that share layers; every layer's content tells
// whose it is.
func crashRegistry(t *testing.T) *testRegistry {
	reg := newRegistry(t, nil)
	var shared []v1.Layer
	for i := range 4 {
		var files []entry
		for k := range 40 {
			files = append(files, entry{fmt.Sprintf("d%d/f%d", i, k), strings.Repeat(fmt.Sprint(i, k), 1000)})
		}
		shared = append(shared, layerOf(t, layerTar(t, files...)))
	}
	for i := range 8 {
		own := layerOf(t, layerTar(t, entry{"own", strings.Repeat(fmt.Sprint(i), 100_000)}))
		reg.push(t, "app"+strconv.Itoa(i), imageOf(t, append(append([]v1.Layer{}, shared[:i%5]...), own)...))
	}
	return reg
}

// TestCrash kills a process in the middle of pulls and removals, many times. After
// each, whatever is listed is whole, and the disk holds nothing else.
func TestCrash(t *testing.T) {
	rounds := *crashRounds
	if testing.Short() {
		rounds = 3
	}
	reg := crashRegistry(t)
	root := t.TempDir()
	for n := range rounds {
		killAfter(t, root+" "+reg.host, rand.IntN(120))
		s, err := Open(Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range s.List() {
			dir := view(t, s, img, MountRequest{})
			if own := read(t, dir, "own"); len(own) != 100_000 {
				t.Errorf("round %d: %v has an incomplete file", n, img.Tags)
			}
		}
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		rep, err := s.Check(t.Context(), false)
		if err != nil || len(rep.Problems) != 0 {
			t.Fatalf("round %d: %+v %v", n, rep, err)
		}
		onlyListed(t, s)
		sameAsDu(t, s)
		s.Close()
		if t.Failed() {
			return
		}
	}
}

// A crash between the two writes that move a tag leaves it with both images. The
// one that lost it must not get it back when the other is removed, or a pod would
// run an image that its tag has not meant for long.
func TestCrashWhileATagMoves(t *testing.T) {
	reg := newRegistry(t, nil)
	root := t.TempDir()
	s := openStore(t, Options{Root: root})
	ref := reg.push(t, "app", imageOf(t, layerOf(t, layerTar(t, entry{"v", "1"}))))
	first := pullOK(t, s, ref)
	old, err := os.ReadFile(s.cat.path(first.ID))
	if err != nil {
		t.Fatal(err)
	}
	reg.push(t, "app", imageOf(t, layerOf(t, layerTar(t, entry{"v", "2"}))))
	second := pullOK(t, s, ref)
	s.Close()
	if err := os.WriteFile(s.cat.path(first.ID), old, 0o600); err != nil {
		t.Fatal(err)
	}

	s = openStore(t, Options{Root: root})
	if img, err := s.Get(ref); err != nil || img.ID != second.ID {
		t.Fatalf("the tag leads to %+v, %v", img, err)
	}
	if err := s.Remove(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = openStore(t, Options{Root: root})
	if img, err := s.Get(ref); !errors.Is(err, ErrNotFound) {
		t.Errorf("the tag went back to %+v, %v", img, err)
	}
}

// killAfter runs the churning process and kills it after so many steps.
func killAfter(t *testing.T, args string, steps int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+args)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for i := 0; i <= steps && lines.Scan(); i++ {
		if strings.HasPrefix(lines.Text(), "FAIL") {
			t.Errorf("the process says %s", lines.Text())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	io.Copy(io.Discard, out)
	cmd.Wait()
}

// onlyListed checks that nothing is on disk that no image names.
func onlyListed(t *testing.T, s *Store) {
	t.Helper()
	want := map[string]bool{}
	for _, img := range s.List() {
		for _, l := range img.Layers {
			want[filepath.Base(s.pool.path(l))] = true
		}
	}
	for _, d := range layerDirs(t, s) {
		if !want[d] {
			t.Errorf("%s is on disk, and of no image", d)
		}
	}
}
