package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cri/operator"
)

// evil would clear the screen, hide a part of a name and begin a line of its own.
const evil = "\x1b[2J\u009b31m\u202e\tx\nberth: all is well\n\xff"

func checkText(t *testing.T, what, text string, lines int) {
	t.Helper()
	for _, r := range strings.ReplaceAll(text, "\n", "") {
		if !strconv.IsPrint(r) {
			t.Fatalf("%s: %q is left in %q", what, r, text)
		}
	}
	if n := strings.Count(text, "\n"); n != lines {
		t.Errorf("%s: %d lines, want %d: %q", what, n, lines, text)
	}
}

// Image names from an archive or a registry that hold terminal escapes and newlines
// neither act on the terminal of berth image list nor add a row to it.
func TestAttackImageNames(t *testing.T) {
	var b bytes.Buffer
	images := []*runtimeapi.Image{{Id: "sha256:" + evil, RepoTags: []string{"a" + evil, "b"}}, {RepoDigests: []string{evil}}}
	if err := writeImages(&b, images); err != nil {
		t.Fatal(err)
	}
	checkText(t, "image list", b.String(), 4)
}

// Progress lines with the words of a registry or an archive stay one line each, on a
// terminal and off it.
func TestAttackProgress(t *testing.T) {
	for _, cols := range []int{0, 80} {
		var b bytes.Buffer
		p := &progress{out: &b, rows: 24, cols: cols, state: map[string]string{}}
		p.line("layer" + evil + ": " + evil)
		p.line(evil)
		checkText(t, "progress", b.String(), 2)
	}
}

// hostileDaemon answers with what an archive says.
type hostileDaemon struct{ operator.Backend }

func (hostileDaemon) Load(_ context.Context, r io.Reader, _ func(string)) ([]string, error) {
	_, err := io.Copy(io.Discard, r)
	return []string{strings.ToValidUTF8(evil, "?"), "b"}, err
}

func (hostileDaemon) Pull(context.Context, string, func(string)) (string, error) {
	return "", status.Error(codes.Unknown, "registry says "+strings.ToValidUTF8(evil, "?"))
}

// What an archive calls its images is escaped by berth image load, and so is a
// registry's answer in the error of berth image pull.
func TestAttackAnswersOfTheDaemon(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	operator.Register(g, hostileDaemon{})
	go g.Serve(l)
	t.Cleanup(g.Stop)
	client, err := operator.Dial("unix://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	archive := filepath.Join(dir, "a.tar")
	if err := os.WriteFile(archive, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	env := environment{client: client, out: &out, progress: &progress{out: io.Discard, state: map[string]string{}}}
	if err := loadImages(t.Context(), env, []string{archive}); err != nil {
		t.Fatal(err)
	}
	checkText(t, "image load", out.String(), 2)
	err = pullImage(t.Context(), env, []string{"x"})
	if err == nil {
		t.Fatal("the pull went well")
	}
	out.Reset()
	tell(&out, err)
	checkText(t, "error", out.String(), 1)
}
