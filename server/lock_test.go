package server

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestOneDaemonPerDirectory(t *testing.T) {
	dir := t.TempDir() + "/root"
	first, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockDir(dir)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("second lock: got %v, want the holder's pid", err)
	}
	first.release()
	again, err := lockDir(dir)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	again.release()
}
