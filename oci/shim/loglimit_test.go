package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/oci/shimapi"
)

// limitedLog is a log of one stream with limits.
func limitedLog(t *testing.T, limits shimapi.LogLimits) (*logFile, *lineWriter) {
	t.Helper()
	l, err := openLog(logTarget{path: filepath.Join(t.TempDir(), "0.log"), limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	return l, &lineWriter{stream: "stdout", log: l}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A log that has met its limit says so in its last line, and takes lines again when it was
// rotated. What was there before, such as from another shim, counts.
func TestLogSize(t *testing.T) {
	const limit = 10_000
	l, w := limitedLog(t, shimapi.LogLimits{Size: limit})
	for i := range 1000 {
		w.write(fmt.Appendf(nil, "line %d\n", i), time.Now())
	}
	text := content(t, l.path)
	if n := len(text); n < limit-100 || n > limit+200 {
		t.Errorf("the log has %d bytes, its limit is %d", n, limit)
	}
	if !strings.HasSuffix(text, fullLine) || strings.Count(text, "[berth]") != 1 || !strings.Contains(text, "stdout F line 99\n") {
		t.Errorf("the log ends with %q", text[max(0, len(text)-300):])
	}
	again, err := openLog(l.logTarget)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	(&lineWriter{stream: "stdout", log: again}).write([]byte("of another shim\n"), time.Now())
	if strings.Contains(content(t, l.path), "another shim") {
		t.Error("a full log that is opened again without a rotation takes lines")
	}
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.reopen(); err != nil {
		t.Fatal(err)
	}
	w.write([]byte("after\n"), time.Now())
	if got := content(t, l.path); !strings.HasSuffix(got, "stdout F after\n") || strings.Contains(got, "[berth]") {
		t.Errorf("after its rotation the log has %q", got)
	}
}

// The pace allows a burst of a second, then the rate, in all streams of a container
// together; after the container's end nobody waits.
func TestLogPace(t *testing.T) {
	p, now := newPace(1000), time.Now()
	for _, step := range []struct {
		n     int
		after time.Duration
		want  time.Duration
	}{{1000, 0, 0}, {500, 0, 500 * time.Millisecond}, {500, 0, time.Second}, {0, 400 * time.Millisecond, 600 * time.Millisecond}, {1000, 5 * time.Second, 0}, {100, 0, 100 * time.Millisecond}} {
		now = now.Add(step.after)
		p.wrote(step.n, now)
		if got := max(0, p.debt(now)).Round(time.Millisecond); got != step.want {
			t.Errorf("%d bytes %s later make %s of waiting, want %s", step.n, step.after, got, step.want)
		}
	}
	p.wrote(1_000_000, now)
	p.end()
	p.end()
	began := time.Now()
	p.wait()
	if took := time.Since(began); took > time.Second {
		t.Errorf("after the container's end its output waits for %s", took)
	}
	newPace(0).wrote(1<<30, now)
	newPace(0).wait()
}
