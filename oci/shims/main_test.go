package shims_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"berth/test/shimnode"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == stubName {
		fmt.Fprintln(os.Stderr, runStub())
		os.Exit(1)
	}
	code := m.Run()
	shimnode.Clean()
	os.Exit(code)
}
