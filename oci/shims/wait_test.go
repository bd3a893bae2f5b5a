package shims

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

// eventually asks until the answer is yes: for facts of the kernel that nobody tells.
func eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	for range 2000 {
		if yes() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not so after 10 s: %s", what)
}

func waitLog(t testing.TB, path, text string) {
	t.Helper()
	eventually(t, text+" in the log", func() bool {
		data, _ := os.ReadFile(path)
		return strings.Contains(string(data), text)
	})
}

func readRecord(t testing.TB, dir string) (r shimapi.Record) {
	t.Helper()
	if err := atomicfile.Read(filepath.Join(dir, "status.json"), &r); err != nil {
		t.Fatal(err)
	}
	return r
}
