package shims_test

import (
	"os"
	"testing"

	"berth/test/shimnode"
)

func TestMain(m *testing.M) {
	code := m.Run()
	shimnode.Clean()
	os.Exit(code)
}
