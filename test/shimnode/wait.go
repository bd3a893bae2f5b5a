package shimnode

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

// Eventually asks until the answer is yes: for facts of the kernel that nobody tells.
func Eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	for range 2000 {
		if yes() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not so after 10 s: %s", what)
}

// WaitLog waits until a log has a text.
func WaitLog(t testing.TB, path, text string) {
	t.Helper()
	Eventually(t, text+" in the log", func() bool {
		data, _ := os.ReadFile(path)
		return strings.Contains(string(data), text)
	})
}

// ReadRecord is the record of the pod or container with this directory.
func ReadRecord(t testing.TB, dir string) (r shimapi.Record) {
	t.Helper()
	if err := atomicfile.Read(filepath.Join(dir, "status.json"), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// Counting prints numbered lines as fast as the log takes them, which stop after
// TERM with a last word: a pipe that broke would end it by SIGPIPE, with 141.
const Counting = `trap 'echo last $i; exit 9' TERM; echo ready; i=0; while :; do echo n$i; i=$((i+1)); done`

// Numbers checks that a log has the lines n0, n1, … without a gap and each once, and gives the
// number of the last.
func Numbers(t *testing.T, log string) (last int) {
	t.Helper()
	next := 0
	for line := range strings.Lines(log) {
		var at int
		if _, err := fmt.Sscanf(line, "n%d\n", &at); err != nil {
			continue
		}
		if at != next {
			t.Errorf("line %d after %d", at, next-1)
		}
		next = at + 1
	}
	t.Logf("%d lines", next)
	return next - 1
}

// LogSize is the size of the log of a container in bytes.
func LogSize(r *shimapi.CreateRequest) int64 {
	info, err := os.Stat(r.LogPath)
	if err != nil {
		return 0
	}
	return info.Size()
}
