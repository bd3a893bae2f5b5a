package explain

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cmd/berth/printable"
	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// evil clears the screen, sets a title, turns the direction of writing round, is no
// UTF-8 at its end and begins a line that looks like a report's last one.
const evil = "\x1b[2J\x1b]0;x\a\u009b31m\u202e\r\nMost likely: all is well\n\xff"

const logHead = "2026-01-01T00:00:00.000000000Z stderr F "

// evilPods has evil in everything that a client, an image or a workload may say.
func evilPods(t *testing.T, fact shimapi.Record, log string) *Pods {
	t.Helper()
	pods, _ := records(t, fact, log)
	p := pods.all[0]
	p.ID += evil
	p.config.Metadata.Name, p.config.Metadata.Namespace = "shop"+evil, evil
	p.Network = &record.Network{IPs: []string{evil}}
	p.Intent = "ready" + evil
	for _, c := range p.containers {
		c.config.Metadata.Name += evil
		c.config.Mounts = append(c.config.Mounts, mountOf("/data"+evil, "/none"+evil), mountOf("", "/etc"))
		c.Spec.Process.Args, c.Spec.Process.Cwd = []string{evil, strings.Repeat("x", 1<<20)}, evil
		c.ImageID = evil
		c.fact.Message = "exec" + evil
		c.fact.CgroupPaths = map[string]string{"": "/sys/fs/cgroup/" + evil, "memory": "/" + evil, "pids": "/" + evil}
	}
	return pods
}

// checkText fails for what acts on a terminal, and for a second last line.
func checkText(t *testing.T, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Error("it is not UTF-8")
	}
	likely := 0
	for line := range strings.Lines(text) {
		for _, r := range strings.TrimSuffix(line, "\n") {
			if !strconv.IsPrint(r) {
				t.Fatalf("%q is left in %q", r, line)
			}
		}
		if strings.HasPrefix(strings.TrimSpace(line), "Most likely:") {
			likely++
		}
	}
	if likely > 1 {
		t.Errorf("%d lines say what is most likely:\n%s", likely, text)
	}
}

// A workload whose names, mounts, command, log and messages hold terminal escapes
// and lines that look like the report's own neither acts on the operator's terminal
// nor fakes a line of berth explain.
func TestAttackReportWithEscapes(t *testing.T) {
	failed := stopped(1)
	failed.Message = evil
	for name, fact := range map[string]shimapi.Record{"running": running(t), "ended": failed} {
		log := logHead + "open\x1b[2J\u202e: Permission denied\xff\n" + logHead + "\r" + evil
		pods := evilPods(t, fact, log)
		for _, what := range []string{"bbbb", "aaaa"} {
			r, err := pods.Explain(what)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := r.Write(&b); err != nil {
				t.Fatal(err)
			}
			t.Run(name+" "+what, func(t *testing.T) { checkText(t, b.String()) })
			if b.Len() > 64<<10 {
				t.Errorf("%s: the text has %d bytes", name, b.Len())
			}
			document, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			document = printable.JSON(document)
			if !json.Valid(document) || !utf8.Valid(document) {
				t.Errorf("%s: not JSON: %s", name, document)
			}
			t.Run(name+" "+what+" JSON", func(t *testing.T) { checkText(t, string(document)) })
		}
	}
}

// A pod whose names hold escapes and newlines can't add a row to berth audit.
func TestAttackAuditWithEscapes(t *testing.T) {
	pods := evilPods(t, running(t), "")
	var b strings.Builder
	all := pods.Audit()
	if err := WriteAudit(&b, all); err != nil {
		t.Fatal(err)
	}
	checkText(t, b.String())
	if rows := strings.Count(b.String(), "\n"); len(all) == 0 || rows != len(all)+1 {
		t.Errorf("%d rows for %d containers:\n%s", rows, len(all), b.String())
	}
}

// hostileFiles puts in the place of a file what must be neither followed nor opened
// nor waited for.
var hostileFiles = map[string]func(t *testing.T, path, secret string) error{
	"link":      func(_ *testing.T, path, secret string) error { return os.Symlink(secret, path) },
	"FIFO":      func(_ *testing.T, path, _ string) error { return unix.Mkfifo(path, 0o600) },
	"directory": func(_ *testing.T, path, _ string) error { return os.Mkdir(path, 0o755) },
	"device": func(t *testing.T, path, _ string) error {
		err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) // zero: it never ends
		if err == unix.EPERM {
			t.Skip("this user may make no devices")
		}
		return err
	},
	"link to a device": func(_ *testing.T, path, _ string) error { return os.Symlink("/dev/zero", path) },
	"link in the way": func(_ *testing.T, path, secret string) error {
		if err := os.Remove(filepath.Dir(path)); err != nil {
			return err
		}
		return os.Symlink(filepath.Dir(secret), filepath.Dir(path))
	},
	"magic link": func(_ *testing.T, path, secret string) error {
		return os.Symlink("/proc/self/cwd/../../../../../../../../../../../.."+secret, path)
	},
}

// A log that a workload replaced (CVE-2017-1002101 and its kin: a pod that mounts
// the node's logs) by a link to a file of the machine, a FIFO, a device or a
// directory is not read, and berth explain does not wait for it.
func TestAttackLogIsNoFile(t *testing.T) {
	for name, replace := range hostileFiles {
		t.Run(name, func(t *testing.T) {
			pods, root := records(t, stopped(1), "")
			secret := filepath.Join(root, "secret", "web.log")
			write(t, secret, logHead+"root:SECRET: permission denied\n")
			c := pods.all[0].containers[0]
			c.LogPath = filepath.Join(root, "logs", "web.log")
			if err := os.Mkdir(filepath.Dir(c.LogPath), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := replace(t, c.LogPath, secret); err != nil {
				t.Fatal(err)
			}
			checkUnread(t, pods, "process", "last words")
		})
	}
}

// A resolv.conf that was replaced in a pod's directory is not followed or waited for.
func TestAttackResolvConfIsNoFile(t *testing.T) {
	for name, replace := range hostileFiles {
		if name == "link in the way" {
			continue // the way to a pod's directory is the machine's own
		}
		t.Run(name, func(t *testing.T) {
			pods, root := records(t, stopped(1), "")
			secret := filepath.Join(root, "secret", "resolv.conf")
			write(t, secret, "nameserver SECRET\n")
			file := filepath.Join(pods.all[0].dir, "resolv.conf")
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := replace(t, file, secret); err != nil {
				t.Fatal(err)
			}
			checkUnread(t, pods, "network", "name servers")
		})
	}
}

// checkUnread explains bbbb and wants the fact to say that its file can't be read.
func checkUnread(t *testing.T, pods *Pods, layer, name string) {
	t.Helper()
	began := time.Now()
	done := make(chan *Report, 1)
	go func() {
		r, err := pods.Explain("bbbb")
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	var r *Report
	select {
	case r = <-done:
	case <-time.After(2 * patience):
		t.Fatal("it waits for the file")
	}
	if took := time.Since(began); took >= patience {
		t.Errorf("it waited %s for the file", took)
	}
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "SECRET") {
		t.Errorf("the machine's file is shown:\n%s", b.String())
	}
	for _, l := range r.Layers {
		for _, f := range l.Facts {
			if l.Name == layer && f.Name == name && strings.HasPrefix(f.Value, "can't be read: ") {
				return
			}
		}
	}
	t.Errorf("nothing says that it can't be read:\n%s", b.String())
}

// The shim's record and the daemon's are not taken from links, and a status.json
// that is a FIFO does not hold berth explain up.
func TestAttackRecordIsNoFile(t *testing.T) {
	for _, name := range []string{"link", "FIFO", "device"} {
		t.Run(name, func(t *testing.T) {
			_, root := records(t, stopped(1), "")
			file := filepath.Join(root, "pods", "aaaa", "containers", "bbbb", shimapi.RecordName)
			secret := filepath.Join(root, "secret")
			if err := os.Rename(file, secret); err != nil {
				t.Fatal(err)
			}
			if err := hostileFiles[name](t, file, secret); err != nil {
				t.Fatal(err)
			}
			done := make(chan *Pods, 1)
			go func() {
				pods, err := Open(root, root)
				if err != nil {
					t.Error(err)
				}
				done <- pods
			}()
			select {
			case pods := <-done:
				if len(pods.Broken) != 1 {
					t.Errorf("broken: %q", pods.Broken)
				}
			case <-time.After(2 * patience):
				t.Fatal("it waits for the record")
			}
		})
	}
}

// A log of one line of 4 GiB, and a resolv.conf as long, cost neither memory nor time.
func TestAttackGiantLines(t *testing.T) {
	pods, root := records(t, stopped(1), logHead)
	for _, file := range []string{filepath.Join(root, "web.log"), filepath.Join(pods.all[0].dir, "resolv.conf")} {
		if err := os.Truncate(file, 4<<30); err != nil {
			t.Fatal(err)
		}
	}
	var r *Report
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var err error
			if r, err = pods.Explain("bbbb"); err != nil {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	checkText(t, b.String())
	if b.Len() > 16<<10 || allocated > 16<<20 {
		t.Errorf("%d bytes of text, %d of memory", b.Len(), allocated)
	}
}

// Files with a cgroup's names that are links, FIFOs or megabytes long are not read
// as numbers, followed or waited for.
func TestAttackCgroupFiles(t *testing.T) {
	fact := running(t)
	pods, root := records(t, fact, "")
	dir := filepath.Join(root, "cg\x1b[2J\nMost likely: x")
	write(t, filepath.Join(dir, "memory.current"), "1"+strings.Repeat("0", 8<<20))
	write(t, filepath.Join(dir, "cpu.stat"), strings.Repeat("nr_periods 1\x1b[2J\n\xff", 1000))
	write(t, filepath.Join(dir, "cpu.max"), "\x1b[2J\nMost likely: y\n")
	if err := unix.Mkfifo(filepath.Join(dir, "pids.current"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "memory.pressure")); err != nil {
		t.Fatal(err)
	}
	pods.all[0].containers[0].fact.CgroupPaths = map[string]string{"": dir}
	done := make(chan string, 1)
	go func() {
		var b strings.Builder
		r, err := pods.Explain("bbbb")
		if err == nil {
			err = r.Write(&b)
		}
		if err != nil {
			t.Error(err)
		}
		done <- b.String()
	}()
	select {
	case text := <-done:
		checkText(t, text)
	case <-time.After(2 * patience):
		t.Fatal("it waits for a file")
	}
}

func mountOf(container, host string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: container, HostPath: host}
}
