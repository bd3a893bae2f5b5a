package packaging

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// programs are those of a release.
var programs = []string{"berthd", "berth", "berth-shim", "berth-shim-v2"}

// What `make cross` built is for its architecture, as the libraries that it needs are, and
// starts, where an emulator of programs is at hand.
func TestCrossBuild(t *testing.T) {
	dir := "../../bin/linux_arm64"
	if runtime.GOARCH != "amd64" {
		t.Skip("only amd64 builds for another architecture")
	}
	if _, err := os.Stat(dir + "/berth-shim-v2"); err != nil {
		t.Skip("no bin/linux_arm64: run make cross first")
	}
	for _, p := range programs {
		f, err := elf.Open(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != elf.EM_AARCH64 {
			t.Errorf("%s is for %v", p, f.Machine)
		}
		libraries, err := f.ImportedLibraries()
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if len(libraries) > 0 {
			t.Errorf("%s needs %q, want no library", p, libraries)
		}
	}
	emulator, err := emulatorOf("qemu-aarch64", "qemu-aarch64-static")
	if err != nil {
		t.Skip("no qemu-aarch64 in PATH: the programs are not started")
	}
	for p, flag := range map[string]string{"berthd": "--version", "berth": "--help", "berth-shim": "-h", "berth-shim-v2": "-h"} {
		out, err := exec.Command(emulator, "-L", "../../bin/cross/arm64/usr/aarch64-linux-gnu", "-E",
			"LD_LIBRARY_PATH=/lib:"+absolute(t, "../../bin/cross/arm64/usr/lib/aarch64-linux-gnu"), filepath.Join(dir, p), flag).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("berth")) {
			t.Errorf("%s: %v: %s", p, err, out)
		}
	}
}

// emulatorOf is the first of programs that there is.
func emulatorOf(programs ...string) (path string, err error) {
	for _, p := range programs {
		if path, err = exec.LookPath(p); err == nil {
			return path, nil
		}
	}
	return "", err
}
