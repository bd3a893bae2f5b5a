package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/test/client"
)

// attackEnv tells the test binary to be the process whose memory is attacked.
const attackEnv = "BERTH_IMAGE_ATTACK"

// attacked pulls or loads one thing, with a store as a daemon has it, and tells by how
// many KiB the largest size the process had grew, and the error.
func attacked(args string) {
	f := strings.Fields(args)
	s, err := Open(Options{Root: f[0], retryAttempts: 1})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	before := peak()
	if f[1] == "pull" {
		_, err = s.Pull(context.Background(), PullRequest{Reference: f[2]})
	} else {
		var file *os.File
		if file, err = os.Open(f[2]); err == nil {
			_, err = s.Load(context.Background(), struct{ io.Reader }{file}, LoadOptions{})
		}
	}
	fmt.Println(peak()-before, err)
}

// peak is the largest resident size this process had, in KiB.
func peak() int {
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	return 0
}

// maxGrowth is how many MiB one hostile image may cost while it is taken in or refused.
const maxGrowth = 96

// attackTime bounds what is done in seconds, on an emulated machine in minutes.
var attackTime = client.Bound(time.Minute)

// costs runs the operation in a process of its own and gives its error's text.
func costs(t *testing.T, root, op, arg string) string {
	t.Helper()
	if raceDetector {
		t.Skip("the race detector takes memory of its own")
	}
	ctx, cancel := context.WithTimeout(t.Context(), attackTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), attackEnv+"="+root+" "+op+" "+arg)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("it was not done after %v", attackTime)
	}
	if err != nil {
		t.Fatal(err, string(out))
	}
	grown, text, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	kib, err := strconv.Atoi(grown)
	if err != nil {
		t.Fatal(string(out))
	}
	t.Logf("%d MiB: %.200s", kib>>10, text)
	if kib>>10 >= maxGrowth {
		t.Errorf("it cost %d MiB of memory, more than %d", kib>>10, maxGrowth)
	}
	return text
}

// mustRefuse is costs of what must not be accepted, for a reason that is told.
func mustRefuse(t *testing.T, op, arg, reason string) {
	t.Helper()
	root := t.TempDir()
	if text := costs(t, root, op, arg); !strings.Contains(text, reason) {
		t.Errorf("the error should say %q: %.300s", reason, text)
	}
	s := openStore(t, Options{Root: root})
	if left := layerDirs(t, s); len(left) != 0 || len(s.List()) != 0 {
		t.Errorf("it left %v and %v", left, s.List())
	}
	if left, _ := os.ReadDir(s.cat.dir); len(left) != 1 { // the lock
		t.Errorf("it left %v", left)
	}
}

// rawRegistry serves documents as they are, whatever is wrong with them.
type rawRegistry struct {
	host string
	docs map[string][]byte
}

func newRawRegistry(t testing.TB) *rawRegistry {
	r := &rawRegistry{docs: map[string][]byte{}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		doc, ok := r.docs[req.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Write(doc)
	}))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

func (r *rawRegistry) tag(name string, manifest []byte) string {
	r.docs["/v2/"+name+"/manifests/latest"] = manifest
	return r.host + "/" + name
}

func (r *rawRegistry) blob(name, mediaType string, b []byte) ocispec.Descriptor {
	d := digest.FromBytes(b)
	r.docs["/v2/"+name+"/blobs/"+d.String()] = b
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

// image serves an image of this configuration.
func (r *rawRegistry) image(t testing.TB, name string, config []byte, layers ...ocispec.Descriptor) string {
	t.Helper()
	m, err := json.Marshal(ocispec.Manifest{Config: r.blob(name, ocispec.MediaTypeImageConfig, config), Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	return r.tag(name, m)
}

// list is a JSON list of about so many bytes.
func list(elem string, size int) string {
	return "[" + strings.Repeat(elem+",", size/(len(elem)+1)) + elem + "]"
}

// A registry serves an index, a manifest or a configuration of a few megabytes whose
// empty elements each become a hundred bytes in memory: an index cost a gigabyte a pull.
func TestAttackCrowdedDocuments(t *testing.T) {
	const size = 4<<20 - 1000
	reg := newRawRegistry(t)
	for name, c := range map[string]struct{ ref, reason string }{
		"index too large": {reg.tag("large", []byte(`{"schemaVersion":2,"manifests":`+list("{}", 8<<20)+"}")), "larger than"},
		"index":           {reg.tag("index", []byte(`{"schemaVersion":2,"manifests":`+list("{}", size)+"}")), "values"},
		"manifest":        {reg.tag("layers", []byte(`{"schemaVersion":2,"config":{},"layers":`+list("{}", size)+"}")), "values"},
		"annotations":     {reg.tag("annotations", []byte(`{"schemaVersion":2,"config":{},"annotations":{`+strings.Repeat(`"":"",`, size/6)+`"":""}}`)), "values"},
		"history":         {reg.image(t, "history", []byte(`{"rootfs":{"diff_ids":[]},"history":`+list("{}", size)+"}")), "values"},
		"diffIDs":         {reg.image(t, "diffids", []byte(`{"rootfs":{"diff_ids":`+list(`""`, size)+`}}`)), "values"},
		"nested":          {reg.tag("nested", []byte(strings.Repeat("[", size))), "values"},
		"environment":     {reg.image(t, "env", []byte(`{"config":{"Env":["A=`+strings.Repeat("a", size)+`"]}}`)), "environment"},
		"user":            {reg.image(t, "user", []byte(`{"config":{"User":"`+strings.Repeat("u", 1000)+`"}}`)), "user"},
		"long annotation": {reg.tag("annotation", fmt.Appendf(nil, `{"schemaVersion":2,"config":%s,"annotations":{"a":%q}}`, descriptor(reg.blob("annotation", ocispec.MediaTypeImageConfig, []byte("{}"))), strings.Repeat("a", 100_000))), "annotations"},
	} {
		t.Run(name, func(t *testing.T) { mustRefuse(t, "pull", c.ref, c.reason) })
	}
}

func descriptor(d ocispec.Descriptor) string {
	raw, _ := json.Marshal(d)
	return string(raw)
}

// An image that is accepted has as large documents as are allowed: all that is made of
// them while it is pulled is bounded too.
func TestAttackLargestDocuments(t *testing.T) {
	const size = 4<<20 - 10_000
	reg := newRawRegistry(t)
	config := reg.blob("largest", ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"rootfs":{"diff_ids":[]},"history":[{"comment":%q}]}`, strings.Repeat("h", size)))
	ref := reg.tag("largest", fmt.Appendf(nil, `{"schemaVersion":2,"config":%s,"layers":[],"subject":{"annotations":{"x":%q}}}`, descriptor(config), strings.Repeat("s", size)))
	if text := costs(t, t.TempDir(), "pull", ref); text != "<nil>" {
		t.Error(text)
	}
}

// Images with megabytes of history and labels stay in the daemon's memory for as long
// as they are in its store.
func TestAttackResidentConfigurations(t *testing.T) {
	reg := newRawRegistry(t)
	s := openStore(t, Options{})
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // what the first one found to be finalized
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var configs [][]byte
	for i := range 10 {
		configs = append(configs, fmt.Appendf(nil, `{"config":{"Labels":{"l":%q}},"rootfs":{"diff_ids":[]},"history":[{"comment":%q}],"created":"2020-01-01T00:00:%02dZ"}`,
			strings.Repeat("l", 1<<20), strings.Repeat("h", 2<<20), i))
	}
	refs := make([]string, len(configs))
	for i, c := range configs {
		refs[i] = reg.image(t, "big"+strconv.Itoa(i), c)
	}
	before := heap()
	for _, ref := range refs {
		pullOK(t, s, ref)
	}
	if grown := int64(heap()-before) >> 20; grown > 4 {
		t.Errorf("10 images with configurations of 3 MiB keep %d MiB", grown)
	}
	for i, ref := range refs {
		img, err := s.Get(ref)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := s.RawConfig(img.ID); err != nil || !bytes.Equal(raw, configs[i]) {
			t.Errorf("the configuration came back with %d bytes: %v", len(raw), err)
		}
		if img.Size < 3<<20 {
			t.Errorf("it says it has %d bytes", img.Size)
		}
	}
	// A new name is a new record, with the documents.
	pullOK(t, s, reg.image(t, "again", configs[0]))
	root := s.root
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, Options{Root: root})
	if n := len(s.List()); n != len(refs) {
		t.Errorf("%d images are left after a restart", n)
	}
	if img, err := s.Get(refs[0]); err != nil || len(img.Tags) != 2 {
		t.Errorf("%+v %v", img, err)
	}
}

// bomb writes a compressed tar of what entries adds.
func bomb(t *testing.T, entries func(w *tar.Writer) error) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "bomb.tar.gz")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestSpeed)
	w := tar.NewWriter(z)
	if err := errors.Join(entries(w), w.Close(), z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

// addFile writes a file to an archive.
func addFile(w *tar.Writer, name, body string) error {
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))})
	if err == nil {
		_, err = io.WriteString(w, body)
	}
	return err
}

// dockerList is a manifest.json of n images, with what else each says.
func dockerList(n int, each func(i int) string) string {
	elems := make([]string, n)
	for i := range elems {
		elems[i] = each(i)
	}
	return "[" + strings.Join(elems, ",") + "]"
}

// An archive of two megabytes is loaded whose names, entries, documents or images fill
// gigabytes of memory.
func TestAttackArchiveBombs(t *testing.T) {
	long := strings.Repeat("n", 1<<19)
	config := `{"rootfs":{"diff_ids":[]},"x":"` + strings.Repeat("x", 4<<20-100) + `"}`
	for name, c := range map[string]struct {
		entries func(w *tar.Writer) error
		reason  string
	}{
		"long names": {func(w *tar.Writer) (err error) {
			for i := 0; i < 200 && err == nil; i++ {
				err = addFile(w, strconv.Itoa(i)+long, "")
			}
			return err
		}, "name of more than"},
		"many names": {func(w *tar.Writer) (err error) {
			for i := 0; i < 20_000 && err == nil; i++ {
				err = addFile(w, strings.Repeat("n", 900)+strconv.Itoa(i), "")
			}
			return err
		}, "names in the archive"},
		"many entries of one name": {func(w *tar.Writer) (err error) {
			for i := 0; i < 200_000 && err == nil; i++ {
				err = w.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir})
			}
			return err
		}, "entries"},
		"index":         {func(w *tar.Writer) error { return addFile(w, "index.json", `{"manifests":`+list("{}", 4<<20-100)+"}") }, "values"},
		"large index":   {func(w *tar.Writer) error { return addFile(w, "index.json", `{"manifests":`+list("{}", 40<<20)+"}") }, "at most"},
		"docker list":   {func(w *tar.Writer) error { return addFile(w, "manifest.json", list("{}", 4<<20-100)) }, "values"},
		"docker images": {func(w *tar.Writer) error { return addFile(w, "manifest.json", list("{}", 3*2000)) }, "images"},
		"names of one": {func(w *tar.Writer) error {
			return errors.Join(addFile(w, "c.json", `{}`),
				addFile(w, "manifest.json", `[{"Config":"c.json","RepoTags":[`+strings.Join(tags(5000), ",")+`]}]`))
		}, "names for one image"},
		"layers of one": {func(w *tar.Writer) error {
			return errors.Join(addFile(w, "c.json", `{}`), addFile(w, "l", "x"), addFile(w, "manifest.json", `[{"Config":"c.json","Layers":`+list(`"l"`, 4*5000)+`}]`))
		}, "5001 layers"},
		"manifests": {func(w *tar.Writer) (err error) { // 4 MiB each, kept until all were looked at
			var descs []string
			for i := range 30 {
				m := fmt.Sprintf(`{"n":%d,"x":%q}`, i, strings.Repeat("x", 4<<20-100))
				d := digest.FromString(m)
				descs = append(descs, fmt.Sprintf(`{"digest":%q}`, d))
				if err := addFile(w, "blobs/sha256/"+d.Encoded(), m); err != nil {
					return err
				}
			}
			return addFile(w, "index.json", `{"manifests":[`+strings.Join(descs, ",")+"]}")
		}, "neither a manifest nor an index"},
		"configurations": {func(w *tar.Writer) (err error) {
			for i := 0; i < 100 && err == nil; i++ {
				err = addFile(w, fmt.Sprintf("%d.json", i), config[:len(config)-1]+strings.Repeat(" ", i%10)+"}")
			}
			return errors.Join(err, addFile(w, "manifest.json", dockerList(100, func(i int) string { return fmt.Sprintf(`{"Config":"%d.json","Layers":["gone"]}`, i) })))
		}, "gone"},
	} {
		t.Run(name, func(t *testing.T) { mustRefuse(t, "load", bomb(t, c.entries), c.reason) })
	}
}

func tags(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf(`"a/b:%d"`, i))
	}
	return list
}

// An archive that comes as a stream is copied to the disk, where a compressed one of
// megabytes fills it.
func TestAttackArchiveFillsDisk(t *testing.T) {
	s := openStore(t, Options{maxArchive: 8 << 20})
	zeros := bomb(t, func(w *tar.Writer) error { return addFile(w, "f", strings.Repeat("\x00", 64<<20)) })
	tail := bomb(t, func(*tar.Writer) error { return nil })
	for name, archive := range map[string][]byte{
		"file": fileBytes(t, zeros),
		"tail": append(fileBytes(t, tail), fileBytes(t, zeros)...), // gzip members are one stream
	} {
		_, err := s.Load(t.Context(), bytes.NewReader(archive), LoadOptions{})
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "more than 8388608 bytes") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, _ := os.ReadDir(s.cat.dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func fileBytes(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// chains is a layer of n paths of depth directories each, none of them described.
func chains(t testing.TB, n, depth int) []byte {
	var entries []entry
	for i := range n {
		entries = append(entries, entry{strconv.Itoa(i) + strings.Repeat("/directory", depth-1) + "/f", ""})
	}
	return layerTar(t, entries...)
}

// An image of a few kilobytes takes millions of inodes and gigabytes of memory, by the
// directories its paths imply; its pull used to hold the lock that all others need.
func TestAttackImpliedDirectoriesPull(t *testing.T) {
	reg := newRegistry(t, nil)
	low := layerOf(t, layerTar(t, entry{"x", ""}))
	deep := reg.push(t, "deep", imageOf(t, low, layerOf(t, layerTar(t, entry{strings.Repeat("a/", 1740) + "f", ""}))))
	mustRefuse(t, "pull", deep, "255")

	wide := reg.push(t, "wide", imageOf(t, layerOf(t, chains(t, 10, 200)), layerOf(t, chains(t, 400, 250))))
	if text := costs(t, smallDisk(t, "1g"), "pull", wide); text != "<nil>" { // 100,000 are allowed
		t.Error(text)
	}
}

// A layer is being completed for minutes: other images can be pulled and removed
// meanwhile, and it ends with its client, leaving nothing.
func TestAttackSlowLayerHoldsNoLock(t *testing.T) {
	reg := newRegistry(t, nil)
	s := openStore(t, Options{})
	slow := reg.push(t, "slow", imageOf(t, layerOf(t, chains(t, 2, 100)), layerOf(t, chains(t, 1, 100))))
	ctx, cancel := context.WithCancelCause(t.Context())
	committing, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := s.Pull(ctx, PullRequest{Reference: slow, Progress: func(p Progress) {
			if p.Stage != StageCommit {
				return
			}
			s.staging.mu.Lock()
			for _, st := range s.staging.stages {
				st.inheriting <- struct{}{} // as if the work went on
			}
			s.staging.mu.Unlock()
			close(committing)
		}})
		ended <- err
	}()
	select {
	case <-committing:
	case err := <-ended:
		t.Fatal(err)
	}
	other := reg.push(t, "other", imageOf(t, layerOf(t, layerTar(t, entry{"x", "y"}))))
	pullOK(t, s, other)
	if err := s.Remove(t.Context(), other); err != nil {
		t.Error(err)
	}
	gone := errors.New("the client is gone")
	cancel(gone)
	if err := <-ended; !errors.Is(err, gone) {
		t.Error(err)
	}
	s.bg.running.Wait() // for the removal of what the pull leaves
	if left := layerDirs(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// The store is closed, by SIGTERM, while a layer of very many files is being removed:
// it does not wait for the last of them, and the next start goes on.
func TestAttackHugeLayerDelaysEnd(t *testing.T) {
	root := smallDisk(t, "1g")
	s := openStore(t, Options{Root: root})
	tree := filepath.Join(s.pool.dir, tmpPrefix+"huge")
	for d := range 20 {
		dir := filepath.Join(tree, strconv.Itoa(d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for f := range 5000 {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(f)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Close()
	s, err := Open(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Sweep(ctx) }()
	for { // until it has begun
		if left, err := os.ReadDir(filepath.Join(tree, strconv.Itoa(rand.IntN(20)))); err != nil || len(left) < 5000 {
			break
		}
		time.Sleep(time.Millisecond) // the store tells nobody
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(tree); err != nil {
		t.Errorf("it went on to the end: %v", err)
	}
	s.Close()
	s = openStore(t, Options{Root: root}) // sweeps
	if left := layerDirs(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// A document's error repeats megabytes of what the registry sent, into events and logs.
func TestAttackLongErrors(t *testing.T) {
	reg := newRawRegistry(t)
	s := openStore(t, Options{retryAttempts: 1})
	long := strings.Repeat("x", 1<<20)
	platforms := make([]string, 3000)
	for i := range platforms {
		platforms[i] = fmt.Sprintf(`{"digest":%q,"platform":{"os":%q,"architecture":"y"}}`, digest.FromString("x"), long[:1000])
	}
	for _, ref := range []string{
		reg.tag("digest", fmt.Appendf(nil, `{"config":{"digest":%q},"layers":[]}`, long)),
		reg.tag("type", fmt.Appendf(nil, `{"mediaType":%q}`, long)),
		reg.tag("platforms", []byte(`{"manifests":[`+strings.Join(platforms, ",")+`]}`)),
		reg.image(t, "diffid", fmt.Appendf(nil, `{"rootfs":{"diff_ids":[%q]}}`, long), reg.blob("diffid", ocispec.MediaTypeImageLayer, []byte("x"))),
	} {
		if _, err := s.Pull(t.Context(), PullRequest{Reference: ref}); err == nil || len(err.Error()) > 4000 {
			t.Errorf("%s: %.300v", ref, err)
		}
	}
}
