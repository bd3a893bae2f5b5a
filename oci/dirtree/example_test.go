package dirtree_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"berth/oci/dirtree"
)

func Example() {
	dir, err := os.MkdirTemp("", "tree")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	upper := filepath.Join(dir, "upper")
	if err := os.MkdirAll(filepath.Join(upper, "var", "log"), 0o755); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(upper, "var", "log", "a"), []byte("text"), 0o600); err != nil {
		log.Fatal(err)
	}
	// A second name of a file takes no space.
	if err := os.Link(filepath.Join(upper, "var", "log", "a"), filepath.Join(upper, "b")); err != nil {
		log.Fatal(err)
	}

	usage, err := dirtree.Measure(context.Background(), upper)
	fmt.Println("inodes:", usage.Inodes, err)

	fmt.Println(dirtree.Remove(context.Background(), upper))
	_, err = os.Lstat(upper)
	fmt.Println("removed:", os.IsNotExist(err))
	// Output:
	// inodes: 4 <nil>
	// <nil>
	// removed: true
}
